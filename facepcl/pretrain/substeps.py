"""The tasks of a method: each makes views of an iteration's images and computes a loss.

With several processes each computes its samples' terms of the loss of the whole batch.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F

from facepcl.models.branches import Branches
from facepcl.models.heads import Heads
from facepcl.pretrain import augment, distributed, losses
from facepcl.pretrain.aligned_views import AlignedViews, aligned_views
from facepcl.pretrain.config import Config
from facepcl.pretrain.diagnostics import branch_codes, effective_ranks, gradient_norms
from facepcl.pretrain.label_heads import IDENTITY_CODES, label_losses
from facepcl.pretrain.label_views import LabelViews, label_views, strong_probability
from facepcl.pretrain.log import draw_reconstructions
from facepcl.pretrain.networks import TARGET_SIZE, Networks, to_code
from facepcl.pretrain.rng import WHOLE, noise, step_generator
from facepcl.pretrain.sampler import InMemory, LabelRows, label_targets
from facepcl.pretrain.stream import Stream

HEAD_STEPS = 4  # whose views tell how the inputs of heads are distributed
TURN_SCALE = 20.0  # degrees per unit of the turn head's output

Source = InMemory | Stream


class Iteration(NamedTuple):
    """The step, the fraction of the run that is done, the step's generator, and the weight of each contrast
    loss."""

    step: int
    done: float
    generator: torch.Generator
    weights: dict[str, float]


class Loss(NamedTuple):
    """A scalar to minimise, and the unweighted losses in it by their names in the log, of this process.
    `metrics`: other values for the log, of all processes."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]
    metrics: Mapping[str, torch.Tensor] = MappingProxyType({})


class Tasks:
    """The tasks of the method of `config`, on views of `size` pixels.

    Raises DataError if a method needs labels and too few images have them.
    """

    def __init__(self, config: Config, source: Source, nets: Networks, size: int, dtype: torch.dtype):
        self.config, self.source, self.nets, self.size, self.dtype = config, source, nets, size, dtype
        if "labels" in config.tasks and isinstance(source, InMemory):
            self.label_rows = LabelRows(source.faces, config)
        self.device = next(nets.parameters()).device
        self._reconstructions: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def of_step(
        self, step: int, done: float, weights: dict[str, float], observe: bool = False
    ) -> Iterator[Loss]:
        """Yield the loss of each task of iteration `step`; the caller steps the optimiser in between.

        With `observe` the losses have `metrics`.
        """
        now = Iteration(step, done, step_generator(self.config.seed, step), weights)
        tasks = {
            "disentangle": self._disentangle,
            "face": self._contrast_faces,
            "pose": self._contrast_poses,
            "shared": self._contrast_shared,
            "relative": self._relate_poses,
            "labels": self._predict_labels,
        }
        for number, name in enumerate(self.config.tasks):
            loss = tasks[name](now)
            if observe:
                loss = loss._replace(metrics=self._metrics(loss, with_ranks=number == 0))
            yield loss

    def _metrics(self, loss: Loss, with_ranks: bool) -> dict[str, torch.Tensor]:
        metrics = {} if self.config.freeze else gradient_norms(loss.parts, self.nets.maps)
        if with_ranks:
            with self._autocast():
                metrics |= effective_ranks(branch_codes(self.nets.encoder, self.nets.maps))
        return metrics

    def draw(self, path: Path) -> None:
        """Draw the decoder's last output, if the method has a decoder."""
        if self._reconstructions is not None:
            draw_reconstructions(path, *self._reconstructions)

    def _disentangle(self, now: Iteration) -> Loss:
        count = self.config.batch
        images = self._batch(now, 0, count)
        sides = self.size, TARGET_SIZE
        image, target = (augment.to_float(augment.resize(images, side)).to(self.device) for side in sides)
        clean = torch.cat([image, image.flip(3)])
        part = distributed.local_slice(count)
        added = noise(count, (2, *clean.shape[1:]), now.generator, part, self.device)
        with self._autocast():
            result = disentangle(self.nets, clean + self.config.noise * added, target, target.flip(3))
        self._reconstructions = target, result.decoded
        return Loss(
            result.reconstruction + self.config.orthogonality_weight * result.orthogonality,
            {"reconstruction": result.reconstruction, "orthogonality": result.orthogonality},
        )

    def _contrast_faces(self, now: Iteration) -> Loss:
        views, count = self._face_views(now), self.config.batch
        part = distributed.local_slice(count)
        mixing = losses.mixing(count, 2 * count - 2, now.generator, part, device=self.device)
        with self._autocast():
            return _weighted(now, "face", contrast_faces(self.nets, views, *mixing))

    def _contrast_poses(self, now: Iteration) -> Loss:
        config, count = self.config, self.config.pose_batch
        images, part = self._batch(now, 2, count), distributed.local_slice(count)
        views = augment.pose_views(
            images, self.size, config.pose_negatives, now.generator, part, count, config.edges
        )
        positives, negatives = (t.to(self.device) for t in views)
        mixing = losses.mixing(count, config.pose_negatives, now.generator, part, 1, self.device)
        with self._autocast():
            loss = contrast_poses(self.nets, positives, negatives, *mixing, layout=config.negatives)
        return _weighted(now, "pose", loss)

    def _contrast_shared(self, now: Iteration) -> Loss:
        with self._autocast():
            return _weighted(now, "shared", contrast_shared(self.nets, self._face_views(now)))

    def _predict_labels(self, now: Iteration) -> Loss:
        """METHOD 10: action units and expression from the face map, angles from the pose map, identity from
        the shared code."""
        rows = self.label_rows.of_step(now.step, now.generator)
        part = distributed.local_slice(len(rows))
        views = self._label_views(now, rows, part)
        targets = label_targets(self.label_rows.faces, rows, views)
        targets = {label: target.to(self.device) for label, target in targets.items()}
        with self._autocast():
            predictions = self.nets.label_heads(self.nets.branches(views.images))
            for code in IDENTITY_CODES:
                if code in predictions:
                    predictions[code] = distributed.all_gather(predictions[code])
            by_label = label_losses(predictions, targets, part)
        weights = _label_weights(self.config, now.done)
        return Loss(
            torch.stack([weights[label] * loss for label, loss in by_label.items()]).sum(),
            {f"label_{label}": loss for label, loss in by_label.items()},
        )

    def _label_views(self, now: Iteration, rows: torch.Tensor, part: slice = WHOLE) -> LabelViews:
        faces = self.label_rows.faces
        strong = strong_probability(self.config.views, now.done, bool(self.config.init))
        images = faces.images[rows[part]].to(self.device)
        return label_views(images, faces.landmarks[rows], self.size, now.generator, part, strong)

    @torch.no_grad()
    def start_heads(self, released: Heads) -> None:
        """Begin with the `released` heads of the encoder instead of random ones (METHOD 10)."""
        maps = []
        self.nets.encoder.eval()
        for step in range(HEAD_STEPS):
            now = Iteration(step, 0.0, step_generator(self.config.seed, step), {})
            views = self._label_views(now, self.label_rows.of_step(step, now.generator))
            with self._autocast():
                maps.append(self.nets.branches(views.images))
        self.nets.encoder.train(not self.config.freeze)
        self.nets.label_heads.start_from(released, Branches(*map(torch.cat, zip(*maps, strict=True))))

    def _relate_poses(self, now: Iteration) -> Loss:
        """METHOD 14: contrasts of shared and face codes, and relative pose from the pose code."""
        first, second = self._aligned_views(now)
        views = AlignedViews(*map(torch.cat, zip(first, second, strict=True)))
        with self._autocast():
            by_code = relate_poses(self.nets, views, self.config.batch)
        weights = {"face": self.config.weight_face, "relative": self.config.weight_relative}
        return Loss(
            torch.stack([weights.get(name, 1.0) * loss for name, loss in by_code.items()]).sum(), by_code
        )

    def _aligned_views(self, now: Iteration) -> list[AlignedViews]:
        count, part = self.config.batch, distributed.local_slice(self.config.batch)
        images = self._batch(now, 1, count)
        made = [
            aligned_views(images, self.size, now.generator, part, count, self.config.turn) for _ in range(2)
        ]
        return [AlignedViews(*(tensor.to(self.device) for tensor in views)) for views in made]

    def _face_views(self, now: Iteration) -> torch.Tensor:
        config, count = self.config, self.config.batch
        if config.face_crops == "aligned":
            return torch.cat([views.images for views in self._aligned_views(now)])
        images, part = self._batch(now, 1, count), distributed.local_slice(count)
        return augment.face_views(
            images, self.size, now.generator, part, count, config.face_crops, config.edges
        ).to(self.device)

    def _batch(self, now: Iteration, stream: int, count: int) -> torch.Tensor:
        """This process's slice of `count` images, uint8, on the device where views are made."""
        return self.source.batch(now.step, stream, count).to(where_views_are_made(self.device))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def where_views_are_made(device: torch.device) -> torch.device:
    """`device`, but the CPU for Apple's GPUs: they have no float64, which Pillow's arithmetic needs."""
    return torch.device("cpu") if device.type == "mps" else device


def _weighted(now: Iteration, name: str, loss: torch.Tensor) -> Loss:
    return Loss(now.weights[name] * loss, {name: loss})


def _label_weights(config: Config, done: float) -> dict[str, float]:
    """Weight of each label's loss after the fraction `done` of the run. That of identity rises over the first
    third for a randomly initialised encoder; on the shared code itself it is half of it."""
    rise = 1.0 if config.init else min(1.0, 3 * done)
    return {
        "au": config.weight_au,
        "expression": config.weight_expression,
        "identity": config.weight_identity * rise,
        "pose": config.weight_pose,
        "shared_identity": config.weight_identity * rise / 2,
    }


class Disentangled(NamedTuple):
    """Two losses and the four decoded images `[B, 3, 64, 64]`."""

    reconstruction: torch.Tensor
    orthogonality: torch.Tensor
    decoded: tuple[torch.Tensor, ...]


def disentangle(
    nets: Networks, noisy: torch.Tensor, image: torch.Tensor, mirror: torch.Tensor
) -> Disentangled:
    """Make face codes equal for an image and its mirror, and pose codes tell the side (METHOD 4.1).

    Args:
        nets: Networks with a decoder.
        noisy: `[2B, 3, S, S]`: B noisy images, then their B noisy mirrors.
        image: Targets of the decoder, `[B, 3, 64, 64]`.
        mirror: Their mirrors.
    """
    # one pass for image and mirror, so that batch norm statistics do not tell them apart
    maps = nets.branches(noisy)
    face, face_mirror = to_code(maps.face).chunk(2)
    pose, pose_mirror = to_code(maps.pose).chunk(2)
    # four calls, in this order: each has its own batch norm statistics, and the last ones stay
    pairs = ((face, pose_mirror), (face_mirror, pose), (face, pose), (face_mirror, pose_mirror))
    decoded = tuple(nets.decoder(F.normalize(a + b)) for a, b in pairs)
    codes = distributed.all_gather(torch.cat([face, pose, face_mirror, pose_mirror], 1))
    face, pose, face_mirror, pose_mirror = codes.chunk(4, 1)
    part = distributed.local_slice(len(codes))
    return Disentangled(
        losses.reconstruction(decoded, (mirror, image, image, mirror)) / distributed.world_size(),
        losses.orthogonality(face, pose, part) + losses.orthogonality(face_mirror, pose_mirror, part),
        decoded,
    )


def contrast_faces(
    nets: Networks, views: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """Contrast the two crops of a face, `views` `[2B, 3, S, S]`, with those of other faces (METHOD 4.2)."""
    features = distributed.all_gather(nets.face_head(nets.code("face", views)), copies=2)
    return losses.face_contrast(features, mask, permutation, distributed.local_slice(len(features) // 2))


def contrast_poses(
    nets: Networks,
    positives: torch.Tensor,
    negatives: torch.Tensor,
    mask: torch.Tensor,
    permutation: torch.Tensor,
    layout: str,
) -> torch.Tensor:
    """Contrast `positives` `[2B, 3, S, S]` with mirrored `negatives` `[K B, 3, S, S]`, draw by draw (METHOD
    4.3).

    `layout` "blocks" cuts the draws into B blocks of K rows as the original does, so that only one in B
    negatives is a mirror of the anchor itself; "own" gives each anchor its own mirrors (METHOD Q1).
    """
    batch = len(positives) // 2
    # one pass through the encoder, so that batch norm statistics do not tell anchors from negatives
    codes = nets.code("pose", torch.cat([positives, negatives]))
    anchors = nets.pose_head(codes[: 2 * batch])
    mirrored = nets.pose_head(codes[2 * batch :])  # a separate call: its own batch norm statistics (Q2)
    draws = len(mirrored) // batch
    if layout == "own":
        blocks = mirrored.unflatten(0, (draws, batch)).transpose(0, 1)
    else:
        rows = distributed.all_gather(mirrored, copies=draws)
        blocks = rows.unflatten(0, (-1, draws))[distributed.local_slice(len(rows) // draws)]
    return losses.pose_contrast(anchors, blocks, mask, permutation) / distributed.world_size()


def contrast_shared(nets: Networks, views: torch.Tensor) -> torch.Tensor:
    """SimCLR on the shared code (METHOD 12), for the `views` of `contrast_faces`."""
    return _nt_xent(nets.shared_head(nets.shared_code(nets.trunk(views))))


def relate_poses(nets: Networks, views: AlignedViews, count: int) -> dict[str, torch.Tensor]:
    """SimCLR on the shared and the face code, and the relative pose of two `views` of each face by the pose
    code (METHOD 14); `count`: faces of the whole batch."""
    maps = nets.branches(views.images)
    angles = nets.turn_head(to_code(maps.pose))
    return {
        "shared": _nt_xent(nets.shared_head(nets.shared_code(maps.shared))),
        "face": _nt_xent(nets.face_head(to_code(maps.face))),
        "relative": losses.relative_pose(angles, views.turned / TURN_SCALE, views.mirrored, count),
    }


def _nt_xent(features: torch.Tensor) -> torch.Tensor:
    features = distributed.all_gather(features, copies=2)
    return losses.nt_xent(features, distributed.local_slice(len(features) // 2))
