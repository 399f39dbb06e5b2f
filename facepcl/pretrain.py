"""Pretraining: `facepcl.pretrain.run(facepcl.pretrain.Config(data=("faces.tar",), out="runs/first"))`.

An iteration is a few sub-steps, each with a backward pass and an Adam step of its own. PCL has three (METHOD
4): disentangle, contrast faces, contrast poses; what the other methods add or leave out is a table in
`facepcl.recipe`, and what a sub-step does is in `facepcl.sub_steps`. All chance of an iteration comes from a
generator seeded by (seed, step), so that a run that was stopped goes on as if it had not been.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from facepcl import ranks
from facepcl._interrupt import Stopped, until_interrupted
from facepcl._progress import Progress
from facepcl.averages import Average
from facepcl.batches import schedule
from facepcl.checkpoints import (
    check_same_run,
    check_writable,
    checkpoint_path,
    checkpoints,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_json,
)
from facepcl.errors import DataError, FacepclError, require
from facepcl.label_heads import IDENTITY_WIDTH
from facepcl.machine import find_device, matmul_peak, training_dtype
from facepcl.norms import refresh_norms
from facepcl.objectives import Networks
from facepcl.pretrained import save_encoder, size_cfg
from facepcl.recipe import CONTRASTS, DEFAULTS, MAY_CHANGE, PRESETS, Config
from facepcl.run_log import Flops, Log, tensorboard_writer
from facepcl.sub_steps import SubSteps
from facepcl.training_data import read_faces

__all__ = ["PRESETS", "Config", "dynamic_weights", "run"]

_logger = logging.getLogger("facepcl")


@ranks.joined()
def run(config: Config, progress: bool = False) -> Path:
    """Train, or continue, the run of `config`; return the folder of the finished encoder.

    Under torchrun every process calls this with the same `config` and makes its part; the first one writes.

    Raises OptionError, MissingPath or DataError before the first step, and FacepclError when a loss is no
    longer finite. Ctrl-C and SIGTERM end the iteration and leave a checkpoint; Stopped, a KeyboardInterrupt,
    says which.
    """
    # Data, networks, optimiser.
    config.check()
    ranks.check_batches(config.batches)
    progress = progress and ranks.is_first()
    out = Path(config.out)
    check_writable(out)
    if config.tensorboard:
        require("tensorboard", "tensorboard")
    begun = check_same_run(out / "config.json", asdict(config), DEFAULTS, MAY_CHANGE)
    faces = read_faces(config.data, config.source_size, progress)
    if (largest := max(config.batches["--batch"], config.batches.get("--pose-batch", 0))) > len(faces):
        raise DataError(f"{len(faces)} images are fewer than a batch of {largest}; lower --batch")
    if len(faces) != begun.get("images", len(faces)):
        raise DataError(f"{out} was begun with {begun['images']} images, and DATA now holds {len(faces)}")
    label_outputs = faces.label_outputs(IDENTITY_WIDTH) if "labels" in config.sub_steps else {}
    device = ranks.own_device(find_device(config.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        nets = Networks(config.model, label_outputs, config.sub_steps)
    saved = checkpoints(out)
    if config.init and not saved:
        nets.start_from(config.init)
    nets.to(device).to(memory_format=torch.channels_last).train()
    size = config.size_at(1.0) or nets.own_size
    nets.encoder.pretrained_cfg |= size_cfg(nets.encoder, size)
    sample = torch.rand(8, 3, size, size, device=device)
    dtype = ranks.from_first(training_dtype(begun.get("autocast", config.dtype), nets.encoder, sample))
    sub_steps = SubSteps(config, faces, nets, size, dtype)
    average = Average(nets, config.ema) if config.ema else None
    optimizer = torch.optim.Adam(nets.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    # Where the run stands.
    per_epoch = len(faces) // config.batch
    total = config.steps or max(1, round(config.epochs * per_epoch))
    facts = {
        "autocast": str(dtype).removeprefix("torch."),
        "images": len(faces),
        "skipped": [name for name, _ in faces.skipped],
        "total_steps": total,
        "views_per_step": config.views_per_step,
        "label_outputs": label_outputs,
        "au_names": faces.au_names,
        "expression_names": faces.expression_names,
    }
    if ranks.is_first():
        out.mkdir(parents=True, exist_ok=True)
        write_json({**asdict(config), **facts}, out / "config.json")
    contrasts = [name for name in config.sub_steps if name in CONTRASTS]
    step, epochs = 0, EpochLosses(per_epoch)
    if saved:
        step, epochs.state = load_checkpoint(saved[-1], nets, optimizer, average)
    _logger.info(
        "%d faces, %d broken images skipped; steps %d to %d on %s in %s",
        len(faces),
        len(faces.skipped),
        step,
        total,
        device,
        facts["autocast"],
    )
    flops, peak = Flops(), matmul_peak(device, dtype)
    wanted = config.tensorboard and ranks.is_first()
    writer = tensorboard_writer(out / "tensorboard", step) if wanted else None
    log = Log(out / "log.jsonl", config.views_per_step, step, peak, writer)
    saved_at = time.monotonic()

    # The loop.
    with (
        ranks.shared_norms(nets),
        until_interrupted() as interrupted,
        Progress(total, "steps", progress, "training", initial=step) as bar,
    ):
        while step < total and not (asked := ranks.largest(interrupted())):
            sub_steps.size = config.size_at(step / total) or size
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule(step / total, config.warmup)
            weights = dynamic_weights(epochs.history, count=len(contrasts))
            parts: dict[str, torch.Tensor] = {}
            totals: list[torch.Tensor] = []
            shares = dict(zip(contrasts, weights, strict=True))
            with flops.counted(sub_steps.size):
                for loss in sub_steps.of_step(step, step / total, shares):
                    optimizer.zero_grad(set_to_none=config.gradients == "none")
                    loss.total.backward()
                    ranks.sum_gradients(nets)
                    optimizer.step()
                    parts |= loss.parts
                    totals.append(loss.total)

            step += 1
            losses = _finite_losses(parts, totals, step, out)
            epochs.add([losses[name] for name in contrasts])
            if average:
                average.follow(nets, step)
            if not ranks.is_first():
                continue
            bar.update(1)
            if step % config.log_steps == 0 or step == total:
                lr = optimizer.param_groups[0]["lr"]
                values = log.write(step, step // per_epoch, lr, losses, flops.total)
                bar.update(0, **{name: round(value, 3) for name, value in values.items()})
            if step % config.sample_steps == 0 or step == total:
                sub_steps.draw(out / f"samples/step-{step:08d}.png")
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                save_checkpoint(out, step, nets, optimizer, epochs.state, average)
                saved_at = time.monotonic()

        if ranks.is_first():
            save_checkpoint(out, step, nets, optimizer, epochs.state, average)
    if step < total:
        path = checkpoint_path(out, step)
        raise Stopped(
            f"stopped after step {step} of {total}, saved {path}; the same command continues", asked
        )
    if ranks.is_first():
        released = average or nets
        refresh_norms(released.encoder, faces.images, size)
        save_encoder(released.encoder.eval(), out / "encoder", getattr(released, "decoder", None))
    return ranks.from_first(out / "encoder")


def dynamic_weights(
    history: Sequence[Sequence[float]], temperature: float = 2.0, count: int = 2
) -> tuple[float, ...]:
    """Weights of the `count` contrast losses (PCL: face, pose) from their means in each finished epoch
    (METHOD 4.5)."""
    if len(history) < 2:
        return (1.0,) * count
    rates = [
        math.exp(now / before / temperature) for now, before in zip(history[-1], history[-2], strict=True)
    ]
    return tuple(count * rate / sum(rates) for rate in rates)


class EpochLosses:
    """Mean unweighted contrast losses of each epoch; `state` travels in the checkpoints."""

    def __init__(self, per_epoch: int):
        self.per_epoch = per_epoch
        self.state: dict[str, list[Any]] = {"history": [], "this_epoch": []}

    @property
    def history(self) -> list[list[float]]:
        return self.state["history"]

    def add(self, losses: Sequence[float]) -> None:
        this = self.state["this_epoch"]
        this.append(list(losses))
        if len(this) == self.per_epoch:
            self.history.append([sum(column) / len(this) for column in zip(*this, strict=True)])
            this.clear()


def _finite_losses(
    parts: Mapping[str, torch.Tensor], totals: Sequence[torch.Tensor], step: int, out: Path
) -> dict[str, float]:
    """The losses of a step as numbers, all in one look: a GPU waits for each.

    Raises FacepclError if one of them, or a weighted sum of a sub-step, is not finite.
    """
    values = torch.stack([loss.detach().float() for loss in (*parts.values(), *totals)]).tolist()
    losses = dict(zip(parts, values, strict=False))
    if not all(map(math.isfinite, values)):
        # the first: those behind it come from weights that it broke
        broken = next((name for name, value in losses.items() if not math.isfinite(value)), "a weighted loss")
        raise FacepclError(f"{broken} is no longer finite at step {step}; {last_checkpoint(out)}; lower --lr")
    return losses
