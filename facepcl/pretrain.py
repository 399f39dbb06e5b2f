"""Pretraining: `facepcl.pretrain.run(facepcl.pretrain.Config(data=("faces.tar",), out="runs/first"))`.

An iteration is three sub-steps, each with a backward pass and an Adam step of its own (METHOD 4):
disentangle, contrast faces, contrast poses; `--method pcl-labels` adds sub-steps that read labels from the
codes (METHOD 10). All chance of an iteration comes from a generator seeded by (seed, step), so that a run
that was stopped goes on as if it had not been.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from facepcl import losses, views
from facepcl._interrupt import until_interrupted
from facepcl._progress import Progress
from facepcl.batches import LabelRows, label_targets, schedule, shuffled_rows, step_generator
from facepcl.checkpoints import check_same_run, checkpoints, load_checkpoint, save_checkpoint, write_json
from facepcl.errors import DataError, FacepclError
from facepcl.label_heads import IDENTITY_WIDTH
from facepcl.label_views import label_views
from facepcl.machine import find_device, training_dtype
from facepcl.norms import refresh_norms
from facepcl.objectives import (
    TARGET_SIZE,
    Networks,
    contrast_faces,
    contrast_poses,
    disentangle,
    predict_labels,
)
from facepcl.pretrained import save_encoder
from facepcl.recipe import MAY_CHANGE, PRESETS, Config
from facepcl.samples import draw_reconstructions
from facepcl.training_data import read_faces

__all__ = ["PRESETS", "Config", "dynamic_weights", "run"]

_logger = logging.getLogger("facepcl")


def run(config: Config, progress: bool = False) -> Path:
    """Train, or continue, the run of `config`; return the folder of the finished encoder.

    Raises OptionError, MissingPath or DataError before the first step, and FacepclError when a loss is no
    longer finite. KeyboardInterrupt ends the iteration, leaves a checkpoint and is raised again.
    """
    # Data, networks, optimiser.
    config.check()
    out = Path(config.out)
    begun = check_same_run(out / "config.json", asdict(config), MAY_CHANGE)
    faces = read_faces(config.data, config.source_size, progress)
    if (largest := max(config.batch, config.pose_batch)) > len(faces):
        raise DataError(f"{len(faces)} images are fewer than a batch of {largest}; lower --batch")
    if len(faces) != begun.get("images", len(faces)):
        raise DataError(f"{out} was begun with {begun['images']} images, and DATA now holds {len(faces)}")
    label_outputs = faces.label_outputs(IDENTITY_WIDTH) if config.method == "pcl-labels" else {}
    label_rows = LabelRows(faces, config) if label_outputs else None
    device = find_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        nets = Networks(config.model, label_outputs)
    nets.to(device).to(memory_format=torch.channels_last).train()
    size = config.size or nets.encoder.pretrained_cfg["input_size"][-1]
    sample = torch.rand(8, 3, size, size, device=device)
    dtype = training_dtype(begun.get("autocast", config.dtype), nets.encoder, sample)
    optimizer = torch.optim.Adam(nets.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    # Where the run stands.
    per_epoch = len(faces) // config.batch
    total = config.steps or max(1, round(config.epochs * per_epoch))
    (out / "samples").mkdir(parents=True, exist_ok=True)
    facts = {
        "autocast": str(dtype).removeprefix("torch."),
        "images": len(faces),
        "total_steps": total,
        "label_outputs": label_outputs,
        "au_names": faces.au_names,
        "expression_names": faces.expression_names,
    }
    write_json({**asdict(config), **facts}, out / "config.json")
    step, epochs = 0, EpochLosses(per_epoch)
    if saved := checkpoints(out):
        step, epochs.state = load_checkpoint(saved[-1], nets, optimizer)
    _logger.info("%d faces, steps %d to %d on %s in %s", len(faces), step, total, device, facts["autocast"])
    log = Log(out / "log.jsonl", _images_per_step(config, label_rows is not None), step)
    saved_at = time.monotonic()

    def update(loss: torch.Tensor) -> None:
        """One sub-step's backward pass and Adam step."""
        optimizer.zero_grad(set_to_none=config.gradients == "none")
        loss.backward()
        optimizer.step()

    def batch(stream: int, count: int) -> torch.Tensor:
        """A stream's images of this step, uint8 `[count, 3, S, S]` on the device."""
        return faces.images[shuffled_rows(len(faces), count, step, config.seed, stream)].to(device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    with (
        until_interrupted() as interrupted,
        Progress(total, "steps", progress, "training", initial=step) as bar,
    ):
        while step < total and not interrupted():
            generator = step_generator(config.seed, step)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(step / total, config.warmup)
            face_weight, pose_weight = dynamic_weights(epochs.history)

            # 1. Disentangle: draw each image from the face code of its mirror and from its own pose code.
            images = batch(0, config.batch)
            image = views.to_float(views.resize(images, size))
            target = views.to_float(views.resize(images, TARGET_SIZE))
            clean = torch.cat([image, image.flip(3)])
            noisy = clean + config.noise * torch.randn(clean.shape, generator=generator).to(device)
            with autocast():
                parts = disentangle(nets, noisy, target, target.flip(3))
            update(parts.reconstruction + config.orthogonality * parts.orthogonality)
            shown = {"reconstruction": parts.reconstruction, "orthogonality": parts.orthogonality}

            # 2. Contrast faces: two quadrants of a face against those of the others.
            crops = views.face_views(batch(1, config.batch), size, generator)
            mixed = losses.mixing(2 * config.batch, 2 * config.batch - 2, generator, device)
            with autocast():
                shown["face"] = contrast_faces(nets, crops, *mixed)
            update(config.contrast * face_weight * shown["face"])

            # 3. Contrast poses: a face against its mirror.
            positives, negatives = views.pose_views(
                batch(2, config.pose_batch), size, config.pose_negatives, generator
            )
            mixed = losses.mixing(config.pose_batch, config.pose_negatives, generator, device)
            with autocast():
                shown["pose"] = contrast_poses(nets, positives, negatives, *mixed, layout=config.negatives)
            update(config.contrast * pose_weight * shown["pose"])

            # 4. Labels: action units, expression and identity from the face map, angles from the pose map.
            for rows in label_rows.of_step(step, generator) if label_rows else ():
                seen = label_views(faces.images[rows].to(device), faces.landmarks[rows], size, generator)
                targets = {label: t.to(device) for label, t in label_targets(faces, rows, seen).items()}
                with autocast():
                    by_label = predict_labels(nets, seen.images, targets)
                weights = _label_weights(config, step / total)
                update(torch.stack([weights[label] * loss for label, loss in by_label.items()]).sum())
                shown |= {f"label_{label}": loss for label, loss in by_label.items()}

            step += 1
            epochs.add(shown["face"], shown["pose"])
            bar.update(1)
            if step % config.log_steps == 0 or step == total:
                values = log.write(step, step // per_epoch, optimizer.param_groups[0]["lr"], shown)
                bar.update(0, **{name: round(value, 3) for name, value in values.items()})
                if not all(map(math.isfinite, values.values())):
                    raise FacepclError(_not_finite(step, values, out))
            if step % config.sample_steps == 0 or step == total:
                draw_reconstructions(out / f"samples/step-{step:08d}.png", target, parts.decoded)
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                save_checkpoint(out, step, nets, optimizer, epochs.state)
                saved_at = time.monotonic()

    path = save_checkpoint(out, step, nets, optimizer, epochs.state)
    if step < total:
        _logger.info("stopped after step %d of %d, saved %s; the same command continues", step, total, path)
        raise KeyboardInterrupt
    refresh_norms(nets.encoder, faces.images, size)
    return save_encoder(nets.encoder.eval(), out / "encoder", nets.decoder)


def dynamic_weights(history: Sequence[Sequence[float]], temperature: float = 2.0) -> tuple[float, float]:
    """Weights of the face and pose loss from the mean losses of each finished epoch (METHOD 4.5)."""
    if len(history) < 2:
        return 1.0, 1.0
    face, pose = (
        math.exp(now / before / temperature) for now, before in zip(history[-1], history[-2], strict=True)
    )
    return 2 * face / (face + pose), 2 * pose / (face + pose)


class EpochLosses:
    """Mean unweighted face and pose loss of each epoch; `state` travels in the checkpoints."""

    def __init__(self, per_epoch: int):
        self.per_epoch = per_epoch
        self.state: dict[str, list[Any]] = {"history": [], "this_epoch": []}

    @property
    def history(self) -> list[list[float]]:
        return self.state["history"]

    def add(self, face: torch.Tensor, pose: torch.Tensor) -> None:
        this = self.state["this_epoch"]
        this.append([face.item(), pose.item()])
        if len(this) == self.per_epoch:
            self.history.append([sum(column) / len(this) for column in zip(*this, strict=True)])
            this.clear()


class Log:
    """`log.jsonl`: a line every so often, with the losses and the images a second."""

    def __init__(self, path: Path, images_per_step: int, step: int):
        self.path, self.images_per_step = path, images_per_step
        self.last_step, self.last_time = step, time.monotonic()

    def write(self, step: int, epoch: int, lr: float, shown: dict[str, torch.Tensor]) -> dict[str, float]:
        values = {name: round(loss.item(), 6) for name, loss in shown.items()}
        now = time.monotonic()
        rate = round((step - self.last_step) * self.images_per_step / (now - self.last_time), 1)
        self.last_step, self.last_time = step, now
        with self.path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": step, "epoch": epoch, "lr": lr, "images_per_s": rate, **values}) + "\n"
            )
        return {"images/s": rate, **values}


def _images_per_step(config: Config, labels: bool) -> int:
    """Views that go through the encoder in one iteration."""
    pose = config.pose_batch * (2 + config.pose_negatives)
    return 4 * config.batch + pose + config.label_batch * config.label_steps * labels


def _label_weights(config: Config, done: float) -> dict[str, float]:
    """Weight of each label's loss after the part `done` of the run; identity comes in over its first
    third."""
    rise = min(1.0, 3 * done)
    return {
        "au": config.weight_au,
        "expression": config.weight_expression,
        "identity": config.weight_identity * rise,
        "pose": config.weight_pose,
    }


def _not_finite(step: int, values: dict[str, float], out: Path) -> str:
    names = ", ".join(name for name, value in values.items() if not math.isfinite(value))
    last = next(reversed(checkpoints(out)), "none")
    return f"{names} is no longer finite at step {step}; the last checkpoint is {last}; lower --lr"
