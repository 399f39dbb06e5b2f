"""Which images a step sees, and with which labels: pure functions of seed and step."""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from facepcl.errors import DataError
from facepcl.label_views import LabelViews
from facepcl.recipe import Config
from facepcl.training_data import Faces


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of all chance of one iteration."""
    return torch.Generator().manual_seed(_mixed(seed, step))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=16)
def _permutation(count: int, *seeds: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_mixed(*seeds)))


def shuffled_rows(count: int, batch: int, position: int, seed: int, stream: int) -> torch.Tensor:
    """Batch number `position` of an endless walk over `count` rows, each epoch in a new order `[batch]`.

    The last `count % batch` rows of an order are left out, as in the original.
    """
    per_epoch = max(count // batch, 1)
    epoch, place = divmod(position, per_epoch)
    return _permutation(count, seed, stream, epoch)[place * batch : (place + 1) * batch]


class LabelRows:
    """Batches for the label sub-step: faces turned by no more than so much, two images of each person."""

    STREAM = 3

    def __init__(self, faces: Faces, config: Config):
        self.batch, self.turns, self.seed = config.label_batch, config.label_steps, config.seed
        angles = faces.pose.nan_to_num().abs()
        self.pool = ((angles[:, 0] <= config.max_yaw) & (angles[:, 1] <= config.max_pitch)).nonzero()[:, 0]
        self.people = self._people(faces.identity[self.pool])
        if (len(self.people) or len(self.pool)) < self._groups:
            raise DataError(
                f"{len(self.pool)} images, of {len(self.people)} people with two or more, are within "
                f"--max-yaw {config.max_yaw:g} and --max-pitch {config.max_pitch:g}: too few for "
                f"--label-batch {self.batch}"
            )

    def _people(self, identity: torch.Tensor) -> list[torch.Tensor]:
        """The rows of each person of whom there are at least two."""
        order = identity.argsort(stable=True)
        values, counts = identity[order].unique_consecutive(return_counts=True)
        rows = self.pool[order].split(counts.tolist())
        return [r for value, r in zip(values, rows, strict=True) if value >= 0 and len(r) > 1]

    @property
    def _groups(self) -> int:
        return self.batch // 2 if self.people else self.batch

    def of_step(self, step: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Rows `[batch]` of each label sub-step of iteration `step`."""
        count = len(self.people) or len(self.pool)
        for position in range(step * self.turns, (step + 1) * self.turns):
            chosen = shuffled_rows(count, self._groups, position, self.seed, self.STREAM)
            if self.people:
                yield torch.cat([self._pair(self.people[i], generator) for i in chosen.tolist()])
            else:
                yield self.pool[chosen]

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
