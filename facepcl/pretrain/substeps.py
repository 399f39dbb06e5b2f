"""What `--method` consists of: sub-steps that make their views of a step's images and give their loss."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from facepcl.pretrain import augment, distributed, losses
from facepcl.pretrain.config import Config
from facepcl.pretrain.diagnostics import codes_of, effective_ranks, gradient_norms
from facepcl.pretrain.label_views import label_views, strong_share
from facepcl.pretrain.networks import (
    TARGET_SIZE,
    Networks,
    contrast_faces,
    contrast_poses,
    contrast_shared,
    disentangle,
    predict_labels,
)
from facepcl.pretrain.reconstructions import draw_reconstructions
from facepcl.pretrain.rng import noise
from facepcl.pretrain.sampler import InMemory, LabelRows, Source, label_targets, step_generator


class Iteration(NamedTuple):
    """Where a run stands: the step, the part of the run that is done, the source of all chance of this step,
    and the weight of each contrast loss."""

    step: int
    done: float
    generator: torch.Generator
    weights: dict[str, float]


class Loss(NamedTuple):
    """A scalar to minimise, and the unweighted losses in it by the names they have in the log: this process's
    shares of them. `figures`: what else the log says, of all processes."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]
    figures: Mapping[str, torch.Tensor] = MappingProxyType({})


class SubSteps:
    """The sub-steps of a method on these images and networks, `size` the side of the views in pixels.

    Raises DataError where the method reads labels and too few faces carry them.
    """

    def __init__(self, config: Config, source: Source, nets: Networks, size: int, dtype: torch.dtype):
        self.config, self.source, self.nets, self.size, self.dtype = config, source, nets, size, dtype
        if "labels" in config.sub_steps and isinstance(source, InMemory):
            self.label_rows = LabelRows(source.faces, config)
        self.device = next(nets.parameters()).device
        self._pictures: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def of_step(
        self, step: int, done: float, weights: dict[str, float], observe: bool = False
    ) -> Iterator[Loss]:
        """The loss of each sub-step of iteration `step`; the optimiser moves before the next is asked for.

        With `observe` each comes with figures about it for the log (`facepcl.pretrain.diagnostics`).
        """
        now = Iteration(step, done, step_generator(self.config.seed, step), weights)
        sub_steps = {
            "disentangle": self._disentangle,
            "face": self._contrast_faces,
            "pose": self._contrast_poses,
            "shared": self._contrast_shared,
            "labels": self._read_labels,
        }
        for number, name in enumerate(self.config.sub_steps):
            with self.nets.observed(observe) as maps:
                loss = sub_steps[name](now)
            if observe:
                loss = loss._replace(figures=self._figures(loss, maps[-1], with_ranks=number == 0))
            yield loss

    def _figures(self, loss: Loss, maps: torch.Tensor, with_ranks: bool) -> dict[str, torch.Tensor]:
        figures = gradient_norms(loss.parts, maps)
        if with_ranks:
            with self._autocast():
                figures |= effective_ranks(codes_of(self.nets.encoder, maps))
        return figures

    def draw(self, path: Path) -> None:
        """Write what the decoder drew last, for a method that has a decoder."""
        if self._pictures is not None:
            path.parent.mkdir(exist_ok=True)
            draw_reconstructions(path, *self._pictures)

    def _disentangle(self, now: Iteration) -> Loss:
        """Draw each image from the face code of its mirror and from its own pose code."""
        count = self.config.batch
        images = self._batch(now, 0, count)
        sides = self.size, TARGET_SIZE
        image, target = (augment.to_float(augment.resize(images, side)).to(self.device) for side in sides)
        clean = torch.cat([image, image.flip(3)])
        added = noise(count, (2, *clean.shape[1:]), now.generator, distributed.part(count), self.device)
        with self._autocast():
            parts = disentangle(self.nets, clean + self.config.noise * added, target, target.flip(3))
        self._pictures = target, parts.decoded
        return Loss(
            parts.reconstruction + self.config.orthogonality_weight * parts.orthogonality,
            {"reconstruction": parts.reconstruction, "orthogonality": parts.orthogonality},
        )

    def _contrast_faces(self, now: Iteration) -> Loss:
        """Two crops of a face against those of the others."""
        crops, count = self._face_views(now), self.config.batch
        mixed = self._mixing(now, count, 2 * count - 2)
        with self._autocast():
            loss = contrast_faces(self.nets, crops, *mixed)
        return self._weighted(now, "face", loss)

    def _contrast_poses(self, now: Iteration) -> Loss:
        """A face against its mirror."""
        count, draws = self.config.pose_batch, self.config.pose_negatives
        images = self._batch(now, 2, count)
        positives, negatives = augment.pose_views(
            images,
            self.size,
            draws,
            now.generator,
            part=distributed.part(count),
            count=count,
            edges=self.config.edges,
        )
        positives, negatives = positives.to(self.device), negatives.to(self.device)
        mixed = self._mixing(now, count, draws, views=1)
        with self._autocast():
            loss = contrast_poses(self.nets, positives, negatives, *mixed, layout=self.config.negatives)
        return self._weighted(now, "pose", loss)

    def _contrast_shared(self, now: Iteration) -> Loss:
        """SimCLR: the views of the face sub-step, read from the shared code."""
        with self._autocast():
            loss = contrast_shared(self.nets, self._face_views(now))
        return self._weighted(now, "shared", loss)

    def _read_labels(self, now: Iteration) -> Loss:
        """Action units and expression from the face map, angles from the pose map, identity from the shared
        code."""
        rows = self.label_rows.of_step(now.step, now.generator)
        faces, part = self.label_rows.faces, distributed.part(len(rows))
        images = faces.images[rows[part]].to(self.device)
        share = strong_share(self.config.views, now.done, bool(self.config.init))
        seen = label_views(images, faces.landmarks[rows], self.size, now.generator, part, share)
        targets = {k: t.to(self.device) for k, t in label_targets(faces, rows, seen).items()}
        with self._autocast():
            by_label = predict_labels(self.nets, seen.images, targets)
        weights = _label_weights(self.config, now.done)
        return Loss(
            torch.stack([weights[label] * loss for label, loss in by_label.items()]).sum(),
            {f"label_{label}": loss for label, loss in by_label.items()},
        )

    @staticmethod
    def _weighted(now: Iteration, name: str, loss: torch.Tensor) -> Loss:
        return Loss(now.weights[name] * loss, {name: loss})

    def _mixing(
        self, now: Iteration, count: int, slots: int, views: int = 2
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return losses.mixing(count, slots, now.generator, distributed.part(count), views, self.device)

    def _face_views(self, now: Iteration) -> torch.Tensor:
        count = self.config.batch
        images = self._batch(now, 1, count)
        found = augment.face_views(
            images,
            self.size,
            now.generator,
            part=distributed.part(count),
            count=count,
            crops=self.config.face_crops,
            edges=self.config.edges,
        )
        return found.to(self.device)

    def _batch(self, now: Iteration, stream: int, count: int) -> torch.Tensor:
        """This process's part of a stream's `count` images of this step, uint8 where views are made."""
        return self.source.batch(now.step, stream, count).to(where_views_are_made(self.device))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def where_views_are_made(device: torch.device) -> torch.device:
    """Apple's GPUs know no float64, which Pillow's arithmetic needs."""
    return torch.device("cpu") if device.type == "mps" else device


def _label_weights(config: Config, done: float) -> dict[str, float]:
    """Weight of each label's loss after the part `done` of the run; to an encoder that knows nothing identity
    comes in over its first third."""
    rise = 1.0 if config.init else min(1.0, 3 * done)
    return {
        "au": config.weight_au,
        "expression": config.weight_expression,
        "identity": config.weight_identity * rise,
        "pose": config.weight_pose,
    }
