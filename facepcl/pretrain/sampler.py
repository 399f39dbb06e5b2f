"""Which images and labels a step sees when all are in memory: functions of seed and step."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from facepcl.errors import DataError
from facepcl.pretrain import distributed
from facepcl.pretrain.config import Config
from facepcl.pretrain.dataset import Faces, read_faces
from facepcl.pretrain.label_heads import IDENTITY_WIDTH, Outputs
from facepcl.pretrain.label_views import LabelViews, turned_pose, upright_crops
from facepcl.pretrain.rng import permutation

_logger = logging.getLogger("facepcl")


def shuffled_rows(count: int, batch: int, position: int, seed: int, stream: int) -> torch.Tensor:
    """Batch number `position` `[batch]` of an endless walk over `count` rows, shuffled in each epoch.

    The last `count % batch` rows of an epoch are dropped, as in the original.
    """
    epoch, place = divmod(position, max(count // batch, 1))
    return permutation(count, seed, stream, epoch)[place * batch : (place + 1) * batch]


class InMemory:
    """The batches of a run that reads all images before its first step.

    Raises DataError for fewer images than a batch, or for other images or labels than `previous_config`
    records.
    """

    def __init__(self, config: Config, previous_config: Mapping[str, Any], progress: bool = False):
        labels = "labels" in config.tasks
        self.faces = read_faces(config.data, config.source_size, progress, labels, config.cls)
        self.seed = config.seed
        self.place: list[list[int]] = []  # what a checkpoint needs to continue: here the step is enough
        self.metrics: dict[str, float] = {}  # values for each line of the log
        self.count = len(self.faces)
        for name in ("--batch", "--pose-batch"):
            if (batch := config.batches.get(name, 0)) > self.count:
                raise DataError(f"{self.count} images are fewer than a batch of {batch}; lower {name}")
        digest = self.faces.digest()
        if self.count != previous_config.get("images", self.count):
            raise DataError(
                f"{Path(config.out)} was started with {previous_config['images']} images, but DATA now holds "
                f"{self.count}"
            )
        size = self.faces.file_bytes
        if (digest, size) != (
            previous_config.get("images_digest", digest),
            previous_config.get("images_bytes", size),
        ):
            raise DataError(
                f"{Path(config.out)} was started with other images or labels than DATA now holds; restore "
                "them, or choose another --out"
            )
        self.label_outputs: Outputs = self.faces.label_outputs(IDENTITY_WIDTH) if labels else {}
        self.facts = {  # for RUN/config.json
            "images": self.count,
            "images_digest": digest,
            "images_bytes": size,
            "skipped": [name for name, _ in self.faces.skipped],
            "label_outputs": self.label_outputs,
        }

    def __str__(self) -> str:
        return f"{self.count} images, {len(self.faces.skipped)} broken images skipped"

    def batch(self, step: int, stream: int, count: int) -> torch.Tensor:
        """This process's slice of a batch of `count` images of iteration `step`, uint8 `[b, 3, S, S]`.

        Each task has its own `stream` of batches.
        """
        rows = shuffled_rows(self.count, count, step, self.seed, stream)
        return self.faces.images[rows[distributed.local_slice(count)]]

    def sample(self, limit: int) -> torch.Tensor:
        """At most `limit` images, evenly spaced, cropped as for the encoder: uint8 `[N, 3, S, S]`."""
        rows = slice(None, None, math.ceil(self.count / limit))
        images = self.faces.images[rows]
        return upright_crops(images, self.faces.landmarks[rows]).images if self.label_outputs else images

    def close(self) -> None:
        """Stop reading."""


class LabelRows:
    """Batches of `--method labels`: faces within `--max-yaw` and `--max-pitch`, two images of each person.

    Images without an identity, or whose person has no other, are paired at random.
    """

    STREAM = 3

    def __init__(self, faces: Faces, config: Config):
        self.faces = faces
        self.batch, self.seed = config.batch, config.seed
        angles = faces.pose.nan_to_num().abs()
        self.pool = ((angles[:, 0] <= config.max_yaw) & (angles[:, 1] <= config.max_pitch)).nonzero()[:, 0]
        if (left_out := len(faces) - len(self.pool)) and distributed.is_first():
            _logger.warning(
                "%d of %d faces are left out: they are turned further than --max-yaw %g or --max-pitch %g",
                left_out,
                len(faces),
                config.max_yaw,
                config.max_pitch,
            )
        people, rest = self._people(faces.identity)
        self.groups = [*people, *(pair for pair in rest.split(2) if len(pair) == 2)]
        if len(self.groups) < self.batch // 2:
            raise DataError(
                f"{len(self.pool)} images, of {len(people)} people with two or more, are within "
                f"--max-yaw {config.max_yaw:g} and --max-pitch {config.max_pitch:g}: too few for "
                f"--batch {self.batch}"
            )

    def _people(self, identity: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The rows of each person with two images or more, and the other rows, shuffled."""
        named = self.pool[identity[self.pool].argsort(stable=True)]
        values, counts = identity[named].unique_consecutive(return_counts=True)
        groups = list(zip(values.tolist(), named.split(counts.tolist()), strict=True))
        people = [rows for value, rows in groups if value >= 0 and len(rows) > 1]
        rest = torch.cat([self.pool[:0], *(rows for value, rows in groups if value < 0 or len(rows) == 1)])
        return people, rest[permutation(len(rest), self.seed, self.STREAM)]

    def of_step(self, step: int, generator: torch.Generator) -> torch.Tensor:
        """Rows `[batch]` of iteration `step`."""
        chosen = shuffled_rows(len(self.groups), self.batch // 2, step, self.seed, self.STREAM)
        groups = [self.groups[i] for i in chosen.tolist()]
        return torch.cat([rows[torch.randperm(len(rows), generator=generator)[:2]] for rows in groups])


def label_targets(faces: Faces, rows: torch.Tensor, views: LabelViews) -> dict[str, torch.Tensor]:
    """The labels of `rows` as they are in their views; a mirror negates yaw and roll."""
    pose = turned_pose(faces.pose[rows], views.turned)
    pose[views.mirrored] *= torch.tensor([-1.0, 1.0, -1.0])
    return {
        "pose": pose,
        "au": faces.au[rows],
        "expression": faces.expression[rows],
        "identity": faces.identity[rows],
    }


def schedule(done: float, warmup: float) -> float:
    """Factor of the learning rate after the fraction `done` of a run: linear warm-up, then a half cosine to 0
    (METHOD 4.6)."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
