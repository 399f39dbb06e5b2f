"""What weights are good for by group of rendered faces: skin, age and sex as the renderer drew them.

    python benchmarks/weights.py --shared ../shared --model pcl_facecycle

People that no training set holds; linear probes are fitted on the rendered training faces, aligned tight
crops, near-frontal. Scores over all faces, real ones too: benchmarks/probes.py.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from machine import describe
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import facepcl
from facepcl.label_views import crop_squares, face_frames
from facepcl.models import Branches
from facepcl.training_data import Faces, read_faces

HALF_SIDE = 1.5  # of the crop, in eyes-to-mouth distances: what the card tells users to feed
GROUPS = {
    "skin": (("light", 0.0, 0.33), ("middle", 0.33, 0.67), ("dark", 0.67, 1.01)),
    "age": (("up to about 20", 0.0, 0.4), ("20 to 60", 0.4, 0.75), ("above 60", 0.75, 1.01)),
    "male": (("female", 0.0, 0.5), ("male", 0.5, 1.01)),
}


@torch.inference_mode()
def codes(model: torch.nn.Module, images: torch.Tensor) -> Branches:
    """Codes `[N, D]` of float images `[N, 3, S, S]`."""
    model = model.to(memory_format=torch.channels_last)
    blocks = [model.forward_codes(block.to(memory_format=torch.channels_last)) for block in images.split(64)]
    return Branches(*(torch.cat(parts).numpy() for parts in zip(*blocks, strict=True)))


def aligned(faces: Faces) -> tuple[torch.Tensor, np.ndarray]:
    """Tight aligned crops of the near-frontal faces, float `[M, 3, 64, 64]`, and which faces these are."""
    near = ((faces.pose[:, 0].abs() < 45) & (faces.pose[:, 1].abs() < 27)).nonzero()[:, 0]
    centre, distance, angle = face_frames(faces.landmarks[near], faces.images.shape[-1])
    upright = torch.zeros(len(near), dtype=torch.bool)
    crops = [
        crop_squares(faces.images[rows], c, HALF_SIDE * d, a, m, 64)
        for rows, c, d, a, m in zip(
            *(t.split(256) for t in (near, centre, distance, angle, upright)), strict=True
        )
    ]
    return torch.cat(crops), near.numpy()


def people(shared: Path, shard: str) -> list[dict[str, float]]:
    """`person` of every image of a shard, in order."""
    from facepcl.training_data import read_samples

    return [sample.labels["person"] for sample in read_samples([shared / "data" / shard])]


def identity_auc(face: np.ndarray, identity: np.ndarray) -> float:
    """How well the cosine of centred face codes tells same person from another, within the given faces."""
    unit = face - face.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    i, j = np.triu_indices(len(unit), 1)
    return float(roc_auc_score(identity[i] == identity[j], (unit @ unit.T)[i, j]))


def rendered_groups(shared: Path, name: str) -> None:
    model = facepcl.create_model(name, pretrained=True).eval()
    train = read_faces([shared / "data/synthface-96-train.tar"], 96)
    test = read_faces([shared / "data/synthface-96-test.tar"], 96)
    (x_train, rows_train), (x_test, rows_test) = aligned(train), aligned(test)
    code_train, code_test = codes(model, x_train), codes(model, x_test)

    scale = StandardScaler().fit(code_train.pose)
    ridge = Ridge(alpha=1000.0).fit(scale.transform(code_train.pose), train.pose[rows_train, 0])
    yaw_error = np.abs(ridge.predict(scale.transform(code_test.pose)) - test.pose[rows_test, 0].numpy())
    known_train, known = train.expression[rows_train] >= 0, (test.expression[rows_test] >= 0).numpy()
    scale = StandardScaler().fit(code_train.shared)
    probe = LogisticRegression(C=0.003, max_iter=200)
    probe.fit(scale.transform(code_train.shared[known_train]), train.expression[rows_train][known_train])
    right = probe.predict(scale.transform(code_test.shared)) == test.expression[rows_test].numpy()
    identity = test.identity[rows_test].numpy()

    persons = people(shared, "synthface-96-test.tar")
    print("\n| rendered faces | images | yaw error, degrees | expression, 7 classes % | same person, AUC |")
    print("|---|---|---|---|---|")

    def line(label: str, chosen: np.ndarray) -> None:
        expression = 100 * right[chosen & known].mean()
        auc = identity_auc(code_test.face[chosen], identity[chosen])
        print(f"| {label} | {chosen.sum()} | {yaw_error[chosen].mean():.1f} | {expression:.0f} | {auc:.3f} |")

    line("all", np.ones(len(rows_test), bool))
    for key, bands in GROUPS.items():
        values = np.array([persons[i][key] for i in rows_test])
        for label, low, high in bands:
            line(f"{'sex' if key == 'male' else key}: {label}", (values >= low) & (values < high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/")
    parser.add_argument("--model", default="pcl_facecycle", help="name with weights, or local-dir:FOLDER")
    args = parser.parse_args()
    print(describe(), "\n")
    rendered_groups(args.shared, args.model)


if __name__ == "__main__":
    main()
