"""Which images a step sees, and with which labels, where all are in memory: functions of seed and step."""

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from facepcl.errors import DataError
from facepcl.images.geometry import HALF_SIDE
from facepcl.pretrain import distributed
from facepcl.pretrain.config import Config
from facepcl.pretrain.crops import crop_squares
from facepcl.pretrain.dataset import Faces, read_faces
from facepcl.pretrain.label_heads import IDENTITY_WIDTH, Outputs
from facepcl.pretrain.label_views import LabelViews, face_frames


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of all chance of one iteration."""
    return torch.Generator().manual_seed(_mixed(seed, step))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=16)
def permutation(count: int, *seeds: int) -> torch.Tensor:
    """The numbers 0 .. count - 1 in the order of these seeds."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_mixed(*seeds)))


def shuffled_rows(count: int, batch: int, position: int, seed: int, stream: int) -> torch.Tensor:
    """Batch number `position` of an endless walk over `count` rows, each epoch in a new order `[batch]`.

    The last `count % batch` rows of an order are left out, as in the original.
    """
    per_epoch = max(count // batch, 1)
    epoch, place = divmod(position, per_epoch)
    return permutation(count, seed, stream, epoch)[place * batch : (place + 1) * batch]


class Source(Protocol):
    """Where a run takes its images from."""

    @property
    def count(self) -> int:
        """How many images there are, or about."""

    @property
    def label_outputs(self) -> Outputs:
        """What a head predicts for each label that the method reads."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What RUN/config.json says about the images."""

    @property
    def figures(self) -> Mapping[str, float]:
        """What a line of the log says about them."""

    @property
    def place(self) -> list[list[int]]:
        """What a checkpoint has to know to go on with the batch that comes."""

    def go_on(self, place: list[list[int]]) -> None:
        """Go on where a checkpoint was written."""

    def batch(self, step: int, stream: int, count: int) -> torch.Tensor:
        """This process's part of a batch of `count` for a sub-step of iteration `step`, which has a `stream`
        of its own: uint8 `[count / processes, 3, S, S]`."""

    def sample(self, limit: int) -> torch.Tensor:
        """At most `limit` of all images as the finished encoder will see them, uint8 `[N, 3, S, S]`."""

    def close(self) -> None:
        """End what reads images."""


class InMemory:
    """Images that are all read before the first step. Raises DataError for fewer than a batch, or for others
    than those that a run was `begun` with."""

    def __init__(self, config: Config, begun: Mapping[str, Any], progress: bool = False):
        labels = "labels" in config.sub_steps
        self.faces, self.seed = read_faces(config.data, config.source_size, progress, labels), config.seed
        self.place: list[list[int]] = []  # the step says it all
        self.figures: dict[str, float] = {}
        self.count = len(self.faces)
        for name in ("--batch", "--pose-batch"):
            if (batch := config.batches.get(name, 0)) > self.count:
                raise DataError(f"{self.count} images are fewer than a batch of {batch}; lower {name}")
        digest = self.faces.digest()
        if self.count != begun.get("images", self.count):
            raise DataError(
                f"{Path(config.out)} was begun with {begun['images']} images, and DATA now holds {self.count}"
            )
        if digest != begun.get("images_digest", digest):
            raise DataError(
                f"{Path(config.out)} was begun with other images or labels than DATA now holds; give the "
                "same, or another --out"
            )
        self.label_outputs: Outputs = self.faces.label_outputs(IDENTITY_WIDTH) if labels else {}
        self.facts = {
            "images": self.count,
            "images_digest": digest,
            "skipped": [name for name, _ in self.faces.skipped],
            "label_outputs": self.label_outputs,
        }

    def __str__(self) -> str:
        return f"{self.count} faces, {len(self.faces.skipped)} broken images skipped"

    def go_on(self, place: list[list[int]]) -> None:
        pass

    def batch(self, step: int, stream: int, count: int) -> torch.Tensor:
        rows = shuffled_rows(self.count, count, step, self.seed, stream)
        return self.faces.images[rows[distributed.part(count)]]

    def sample(self, limit: int) -> torch.Tensor:
        rows = slice(None, None, math.ceil(self.count / limit))
        images = self.faces.images[rows]
        if not self.label_outputs:
            return images
        size = images.shape[-1]
        centre, distance, angle = face_frames(self.faces.landmarks[rows], size)
        upright = torch.zeros(len(images), dtype=torch.bool)
        crops = crop_squares(images, centre, distance * HALF_SIDE, angle, upright, size)
        return (crops * 255).round().to(torch.uint8)

    def close(self) -> None:
        pass


class LabelRows:
    """Batches of `--method labels`: faces turned by no more than so much, two images of each person, and,
    of people with one image or no name, any two."""

    STREAM = 3

    def __init__(self, faces: Faces, config: Config):
        self.faces = faces
        self.batch, self.seed = config.batch, config.seed
        angles = faces.pose.nan_to_num().abs()
        self.pool = ((angles[:, 0] <= config.max_yaw) & (angles[:, 1] <= config.max_pitch)).nonzero()[:, 0]
        people, rest = self._people(faces.identity)
        self.groups = [*people, *(pair for pair in rest.split(2) if len(pair) == 2)]
        if len(self.groups) < self.batch // 2:
            raise DataError(
                f"{len(self.pool)} images, of {len(people)} people with two or more, are within "
                f"--max-yaw {config.max_yaw:g} and --max-pitch {config.max_pitch:g}: too few for "
                f"--batch {self.batch}"
            )

    def _people(self, identity: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The rows of each person of whom there are at least two, and the other rows, mixed."""
        named = self.pool[identity[self.pool].argsort(stable=True)]
        values, counts = identity[named].unique_consecutive(return_counts=True)
        groups = list(zip(values.tolist(), named.split(counts.tolist()), strict=True))
        people = [rows for value, rows in groups if value >= 0 and len(rows) > 1]
        rest = torch.cat([self.pool[:0], *(rows for value, rows in groups if value < 0 or len(rows) == 1)])
        return people, rest[permutation(len(rest), self.seed, self.STREAM)]

    def of_step(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """Rows `[batch]` of iteration `step`."""
        chosen = shuffled_rows(len(self.groups), self.batch // 2, step, self.seed, self.STREAM)
        return torch.cat([self._pair(self.groups[i], generator) for i in chosen.tolist()])

    @staticmethod
    def _pair(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return rows[torch.randperm(len(rows), generator=generator)[:2]]


def label_targets(faces: Faces, rows: torch.Tensor, seen: LabelViews) -> dict[str, torch.Tensor]:
    """The labels of `rows` as they are in the views: a turned crop adds to roll, a mirror negates yaw and
    roll."""
    pose = faces.pose[rows].clone()
    pose[:, 2] += seen.turned
    pose[seen.mirrored] *= torch.tensor([-1.0, 1.0, -1.0])
    return {
        "pose": pose,
        "au": faces.au[rows],
        "expression": faces.expression[rows],
        "identity": faces.identity[rows],
    }


def schedule(done: float, warmup: float) -> float:
    """Share of the learning rate after the part `done` of a run: linear rise, then half a cosine to 0
    (METHOD 4.6)."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
