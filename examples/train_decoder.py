"""Train a decoder for an encoder that stays as it is: what one face looks like under another's pose.

    python examples/synthetic_faces turning/ --people 2000 --images 9 --series pose --start 40000 --seed 2026
    python examples/train_decoder.py pcl_facecycle turning/ -o with_decoder/ --steps 1500
    python examples/swap_pose.py with_decoder/ examples/faces/person1*.jpg -o swap.png

DATA is as for `facepcl pretrain`: four or more pictures of each `identity`, in which nothing but the pose
changes, as in the generator's series. A picture is drawn from its own pose code and from the face code of
another picture of the same person, so that what turns with the head has to come from the pose code; decoder,
sum of codes and loss are those of docs/METHOD.md, sections 2 and 4.1. It is drawn in grey: codes that learned
from colours that change at random hold little of them. Encoder and decoder are written to a folder that
`local-dir:` loads; an encoder that has a decoder goes on with it.
"""

import argparse
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torchvision.transforms.functional import rgb_to_grayscale
from tqdm import trange

import facepcl
from facepcl.errors import DataError, WeightsError
from facepcl.models.decoder import CODE, Decoder
from facepcl.models.io import save_encoder
from facepcl.pretrain.augment import crop_squares
from facepcl.pretrain.dataset import Faces, read_faces
from facepcl.pretrain.label_views import face_frames
from facepcl.pretrain.losses import reconstruction
from facepcl.pretrain.networks import TARGET_SIZE, to_code
from facepcl.pretrain.rng import step_generator
from facepcl.pretrain.sampler import schedule, shuffled_rows
from facepcl.utils.device import training_dtype

HALF_SIDE = 1.5  # of a crop, in eyes-to-mouth distances: the middle of what the weights expect
EACH = 4  # pictures of a person in a batch


def train(
    name: str, data: list[str], steps: int, batch: int, lr: float, seed: int
) -> tuple[torch.nn.Module, Decoder]:
    """The encoder `name` and the decoder trained for it."""
    encoder: Any = facepcl.create_model(name, pretrained=True).eval().requires_grad_(False)
    encoder.to(memory_format=torch.channels_last)
    size = encoder.pretrained_cfg["input_size"][-1]
    faces = read_faces(data, max(96, size), progress=True)
    people = pictures_of_people(faces)
    torch.manual_seed(seed)
    try:
        decoder: Any = facepcl.create_decoder(name)
    except WeightsError:
        decoder = Decoder()
    decoder.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=lr)
    dtype = training_dtype("auto", decoder, torch.randn(8, CODE))
    for step in (bar := trange(steps, unit="step")):
        optimizer.param_groups[0]["lr"] = lr * schedule(step / steps, warmup=0.02)
        crops = turning_faces(faces, people, batch, step, seed, max(size, TARGET_SIZE))
        target = rgb_to_grayscale(F.interpolate(crops, (TARGET_SIZE, TARGET_SIZE), mode="area"), 3)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                _, face, pose = encoder.forward_branches(F.interpolate(crops, (size, size), mode="area"))
                face, pose = to_code(face), to_code(pose)
            other = face.view(-1, EACH, CODE).roll(1 + step % (EACH - 1), 1).flatten(0, 1)
            loss = reconstruction([decoder(F.normalize(other + pose))], [target])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    return encoder, decoder.eval()


def pictures_of_people(faces: Faces) -> list[torch.Tensor]:
    """The rows of each person with enough pictures. Raises DataError if there is none."""
    order = faces.identity.argsort(stable=True)
    values, counts = faces.identity[order].unique_consecutive(return_counts=True)
    rows = order.split(counts.tolist())
    people = [r for value, r in zip(values.tolist(), rows, strict=True) if value >= 0 and len(r) >= EACH]
    if not people:
        raise DataError(f"no identity has {EACH} pictures or more")
    return people


def turning_faces(
    faces: Faces, people: list[torch.Tensor], batch: int, step: int, seed: int, size: int
) -> torch.Tensor:
    """Upright crops `[batch, 3, size, size]` in [0, 1], EACH of a person, all or none of them mirrored."""
    generator = step_generator(seed, step)
    chosen = shuffled_rows(len(people), batch // EACH, step, seed, stream=0)
    shuffled = (people[i][torch.randperm(len(people[i]), generator=generator)] for i in chosen.tolist())
    rows = torch.cat([pictures[:EACH] for pictures in shuffled])
    centre, distance, angle = face_frames(faces.landmarks[rows], faces.images.shape[-1])
    mirrored = (torch.rand(len(chosen), generator=generator) < 0.5).repeat_interleave(EACH)
    return crop_squares(faces.images[rows], centre, HALF_SIDE * distance, angle, mirrored, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("encoder", help="name of a model with weights, local-dir:FOLDER or hf-hub:ORG/NAME")
    parser.add_argument("data", nargs="+", metavar="DATA", help="folders or shards of faces that turn")
    parser.add_argument("-o", "--out", required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=1500, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--lr", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    if args.batch < EACH:
        parser.error(f"--batch {args.batch}: at least the {EACH} pictures of one person")
    try:
        encoder, decoder = train(args.encoder, args.data, args.steps, args.batch, args.lr, args.seed)
        print(f"wrote {save_encoder(encoder, args.out, decoder)}")
    except (facepcl.FacepclError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
