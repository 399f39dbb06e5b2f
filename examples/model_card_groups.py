"""For model_card.py: what weights are good for by group of rendered faces, as the renderer drew them.

People that no training set holds; linear probes are fitted on the rendered training faces, aligned tight
crops, near-frontal.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import facepcl
from facepcl.embedding.encoder import IDENTITY
from facepcl.images.geometry import HALF_SIDE
from facepcl.models.branches import Branches
from facepcl.models.factory import find_heads
from facepcl.pretrain.augment import crop_squares
from facepcl.pretrain.dataset import Faces, read_faces, read_samples
from facepcl.pretrain.label_views import face_frames

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


def aligned(faces: Faces, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Tight aligned crops of the near-frontal faces, float `[M, 3, S, S]`, and which faces these are."""
    near = ((faces.pose[:, 0].abs() < 45) & (faces.pose[:, 1].abs() < 27)).nonzero()[:, 0]
    centre, distance, angle = face_frames(faces.landmarks[near], faces.images.shape[-1])
    upright = torch.zeros(len(near), dtype=torch.bool)
    crops = [
        crop_squares(faces.images[rows], c, HALF_SIDE * d, a, m, size)
        for rows, c, d, a, m in zip(
            *(t.split(256) for t in (near, centre, distance, angle, upright)), strict=True
        )
    ]
    return torch.cat(crops), near.numpy()


def people(shard: Path) -> list[dict[str, float]]:
    """`person` of every image of a shard, in order."""
    return [labels["person"] for _, labels in read_samples([shard])]


@torch.inference_mode()
def identities(name: str, model: torch.nn.Module, images: torch.Tensor) -> np.ndarray | None:
    """Identity embeddings `[N, 256]` of float images `[N, 3, S, S]`; None for weights without heads."""
    if heads := find_heads(name):
        return torch.cat([heads(model.forward_branches(part))[IDENTITY] for part in images.split(64)]).numpy()
    return None


def identity_auc(code: np.ndarray, identity: np.ndarray) -> float:
    """How well the cosine of centred codes tells same person from another, within the given faces."""
    unit = code - code.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    i, j = np.triu_indices(len(unit), 1)
    return float(roc_auc_score(identity[i] == identity[j], (unit @ unit.T)[i, j]))


def groups_table(data: Path, names: Sequence[str]) -> str:
    """A line for each group and weights, Markdown; `data` holds the rendered faces."""
    train_shard, test_shard = data / "synthface-96-train.tar", data / "synthface-96-test.tar"
    train, test = read_faces([train_shard], 96), read_faces([test_shard], 96)
    persons = people(test_shard)
    head = ["weights", "rendered faces", "images", "yaw error °", "expression %", "same person, AUC"]
    lines = [head, ["---"] * len(head)]
    for name in names:
        model = facepcl.create_model(name, pretrained=True).eval()
        size = model.pretrained_cfg["input_size"][-1]
        (x_train, rows_train), (x_test, rows_test) = aligned(train, size), aligned(test, size)
        code_train, code_test = codes(model, x_train), codes(model, x_test)
        embedding = identities(name, model, x_test)
        compared = code_test.face if embedding is None else embedding
        yaw_error, right, known = probed(code_train, code_test, train, test, rows_train, rows_test)
        identity = test.identity[rows_test].numpy()
        for label, chosen in groups([persons[i] for i in rows_test]):
            expression = 100 * right[chosen & known].mean()
            auc = identity_auc(compared[chosen], identity[chosen])
            scores = [f"{yaw_error[chosen].mean():.1f}", f"{expression:.0f}", f"{auc:.3f}"]
            lines.append([name, label, str(chosen.sum()), *scores])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def probed(
    code_train: Branches,
    code_test: Branches,
    train: Faces,
    test: Faces,
    rows_train: np.ndarray,
    rows_test: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Error of the yaw read from the pose code, whether the expression read from the shared code is right,
    and whether it is known, of each test face."""
    scale = StandardScaler().fit(code_train.pose)
    ridge = Ridge(alpha=1000.0).fit(scale.transform(code_train.pose), train.pose[rows_train, 0])
    yaw_error = np.abs(ridge.predict(scale.transform(code_test.pose)) - test.pose[rows_test, 0].numpy())
    known_train = train.expression[rows_train] >= 0
    scale = StandardScaler().fit(code_train.shared)
    probe = LogisticRegression(C=0.003, max_iter=200)
    probe.fit(scale.transform(code_train.shared[known_train]), train.expression[rows_train][known_train])
    expression = test.expression[rows_test].numpy()
    return yaw_error, probe.predict(scale.transform(code_test.shared)) == expression, expression >= 0


def groups(persons: list[dict[str, float]]) -> Iterable[tuple[str, np.ndarray]]:
    """The name of each group and which of the faces are in it."""
    yield "all", np.ones(len(persons), bool)
    for key, bands in GROUPS.items():
        values = np.array([person[key] for person in persons])
        for label, low, high in bands:
            yield f"{'sex' if key == 'male' else key}: {label}", (values >= low) & (values < high)
