"""Pretraining: `facepcl.pretrain.run(facepcl.pretrain.Config(data=("faces.tar",), out="runs/first"))`.

An iteration is a few sub-steps, each with a backward pass and an Adam step of its own. PCL has three (METHOD
4): disentangle, contrast faces, contrast poses; what the other methods add or leave out is a table in
`facepcl.pretrain.config`, and what a step does is in `substeps`. All chance of an iteration comes from a
generator seeded by (seed, step), so that a run that was stopped goes on as if it had not been.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from facepcl.errors import DataError, FacepclError, OptionError, ReaderError, RemoteError, require
from facepcl.models.io import save_encoder, size_cfg
from facepcl.pretrain import distributed
from facepcl.pretrain.batchnorm import refresh_norms
from facepcl.pretrain.checkpoints import (
    check_same_run,
    check_writable,
    checkpoint_path,
    checkpoints,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_json,
)
from facepcl.pretrain.config import CONTRASTS, DEFAULTS, MAY_CHANGE, PRESETS, Config
from facepcl.pretrain.ema import Average
from facepcl.pretrain.log import Flops, Log, tensorboard_writer
from facepcl.pretrain.networks import Networks
from facepcl.pretrain.sampler import InMemory, Source, schedule
from facepcl.pretrain.stream import Stream
from facepcl.pretrain.substeps import Loss, SubSteps
from facepcl.pretrain.unfolded import unfolded_convs, unfolding_pays
from facepcl.utils.device import find_device, matmul_peak, training_dtype
from facepcl.utils.lock import alone
from facepcl.utils.progress import Progress
from facepcl.utils.signals import Stopped, until_interrupted

__all__ = ["PRESETS", "Config", "dynamic_weights", "run"]

_logger = logging.getLogger("facepcl")


TEMPERATURE = 2.0  # of the weights of the contrast losses (METHOD 4.5)


def dynamic_weights(history: Sequence[Sequence[float]], count: int = 2) -> tuple[float, ...]:
    """Compute the weights of the contrast losses from their means in each finished epoch (METHOD 4.5).

    Args:
        history: For each epoch the mean of each loss (PCL: face, pose), oldest first.
        count: The number of losses.

    Returns:
        A weight for each loss; their sum is `count`.
    """
    if len(history) < 2:
        return (1.0,) * count
    # an easy epoch may end at a loss of 0; what has grown a million times has all the weight anyway
    ratios = [now / max(before, 1e-12) for now, before in zip(history[-1], history[-2], strict=True)]
    rates = [math.exp((ratio - max(ratios)) / TEMPERATURE) for ratio in ratios]
    return tuple(count * rate / sum(rates) for rate in rates)


class EpochLosses:
    """Mean unweighted contrast losses, by name, of each epoch of so many steps; `state` travels in the
    checkpoints."""

    def __init__(self, length: int, names: Sequence[str]):
        self.length, self.names = length, names
        self.state: dict[str, list[Any]] = {"history": [], "this_epoch": []}

    @property
    def history(self) -> list[list[float]]:
        return self.state["history"]

    def add(self, losses: Mapping[str, float]) -> None:
        this = self.state["this_epoch"]
        this.append([losses[name] for name in self.names])
        if len(this) == self.length:
            self.history.append([sum(column) / len(this) for column in zip(*this, strict=True)])
            this.clear()

    def weights(self) -> dict[str, float]:
        """The weight of each contrast loss in the step that comes."""
        return dict(zip(self.names, dynamic_weights(self.history, count=len(self.names)), strict=True))


@dataclass
class Training:
    """A run in memory: what is trained, on what, and how far it has come."""

    config: Config
    source: Source
    nets: Networks
    average: Average | None
    optimizer: torch.optim.Optimizer
    sub_steps: SubSteps
    size: int  # side of the images that the finished encoder is for, in pixels
    total: int | None  # steps; None where the clock decides
    epochs: EpochLosses
    unfold: bool = False  # tiny maps, because it is faster here
    step: int = 0
    seconds: float = 0.0  # of training, up to the last step

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    def restore(self, checkpoint: Path) -> None:
        """Go back to where a checkpoint was written."""
        self.step, progress = load_checkpoint(checkpoint, self.nets, self.optimizer, self.average)
        self.source.go_on(progress.pop("place", []))  # not there in older checkpoints
        self.seconds = progress.pop("seconds", 0.0)
        self.epochs.state = progress

    def save(self) -> None:
        """Write a checkpoint."""
        progress = {**self.epochs.state, "place": self.source.place, "seconds": self.seconds}
        save_checkpoint(self.out, self.step, self.nets, self.optimizer, progress, self.average)

    @property
    def goal(self) -> str:
        """How long the run is, in words."""
        return f"{self.config.minutes:g} minutes" if self.total is None else str(self.total)

    @property
    def done(self) -> float:
        """The part of the run that is done."""
        return self.step / self.total if self.total else min(1.0, self.seconds / (60 * self.config.minutes))

    @property
    def next_size(self) -> int:
        """The side of the views of the step that comes."""
        return self.config.size_at(self.done, self.step) or self.size

    def iterate(self, observe: bool = False) -> tuple[list[Loss], float]:
        """One iteration: the losses of its sub-steps, and the learning rate they were followed with."""
        config, done, started = self.config, self.done, time.monotonic()
        self.sub_steps.size = self.next_size
        lr = config.lr * schedule(done, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses = []
        for loss in self.sub_steps.of_step(self.step, done, self.epochs.weights(), observe):
            self.optimizer.zero_grad(set_to_none=config.gradients == "none")
            loss.total.backward()
            distributed.sum_gradients(self.nets)
            self.optimizer.step()
            losses.append(loss._replace(total=loss.total.detach()))
        self.step += 1
        if self.total is None:
            self.seconds = distributed.from_first(self.seconds + time.monotonic() - started)
        if self.average:
            self.average.follow(self.nets, self.step)
        return losses, lr

    def release(self) -> Path:
        """Write the encoder, with its decoder and heads where there are any, as a folder that timm loads."""
        released: Any = self.average or self.nets
        refresh_norms(released, self.source.sample, self.size)
        heads = released.label_heads.as_linear() if hasattr(released, "label_heads") else None
        decoder = getattr(released, "decoder", None)
        return save_encoder(released.encoder.eval(), self.out / "encoder", decoder, heads=heads)


@distributed.joined()
def run(config: Config, progress: bool = False) -> Path:
    """Train an encoder, or resume the run in `config.out`, and save it to `RUN/encoder`.

    Under torchrun every process calls this with the same `config`; the first one writes. Ctrl-C and SIGTERM
    finish the iteration and save a checkpoint; `Stopped`, a KeyboardInterrupt, says which.

    Args:
        config: Every hyperparameter; recorded in `RUN/config.json`.
        progress: Show a progress bar.

    Returns:
        The folder of the encoder, for `facepcl.create_model("local-dir:FOLDER")`.

    Raises:
        OptionError: A hyperparameter is wrong, or differs from those that the run began with.
        MissingPath: The data does not exist.
        DataError: Images or labels are too few or broken; with `stream` also while training, after a
            checkpoint is saved.
        RemoteError: With `stream`, a server fails.
        ReaderError: With `stream`, worker processes fail.
        FacepclError: A loss is no longer finite.

    Example:
        >>> config = facepcl.pretrain.Config(data=("faces/",), out="runs/first", steps=1000)
        >>> encoder = facepcl.pretrain.run(config)
    """
    config.check()
    distributed.check_batches(config.batches)
    check_writable(Path(config.out))
    if config.tensorboard:
        require("tensorboard", "tensorboard")
    refusal = f"--out {config.out}: another process is training there; give another --out"
    with alone(Path(config.out), refusal) if distributed.is_first() else nullcontext():
        training = _begin(config, progress and distributed.is_first())
        with closing(training.source):
            _train(training, progress and distributed.is_first())
            if distributed.is_first():
                training.release()
        return distributed.from_first(training.out / "encoder")


def _begin(config: Config, progress: bool) -> Training:
    """Data, networks and optimiser of a run, where its last checkpoint left them."""
    out = Path(config.out)
    begun = check_same_run(out / "config.json", asdict(config), DEFAULTS, MAY_CHANGE)
    device = distributed.own_device(find_device(config.device))
    source: Source = Stream.of(config, begun, device) if config.stream else InMemory(config, begun, progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        nets = Networks(config.model, source.label_outputs, config.sub_steps)
    saved = distributed.from_first(checkpoints(out))  # a shared file system may show the others less
    if config.init and not saved:
        nets.start_from(config.init)
    nets.to(device).to(memory_format=torch.channels_last).train()
    size = config.final_size or nets.own_size
    nets.encoder.pretrained_cfg |= size_cfg(nets.encoder, size)
    sample = torch.rand(min(config.batch, 32), 3, size, size, device=device)
    dtype = distributed.from_first(
        training_dtype(begun.get("autocast", config.dtype), nets.encoder, sample[:8])
    )
    # as when it began, since rounding differs; without "auto" a seed says it all
    tuned = config.dtype == "auto" and not begun
    pays = unfolding_pays(nets.encoder, sample, dtype) if tuned else begun.get("unfold", False)
    unfold = distributed.from_first(pays)
    per_epoch = source.count // config.batch
    total = None if config.minutes else config.steps or max(1, round(config.epochs * per_epoch))
    training = Training(
        config,
        source,
        nets,
        Average(nets, config.ema) if config.ema else None,
        torch.optim.Adam(nets.parameters(), lr=config.lr, weight_decay=config.weight_decay),
        SubSteps(config, source, nets, size, dtype),
        size,
        total,
        EpochLosses(per_epoch, [name for name in config.sub_steps if name in CONTRASTS]),
        unfold,
    )
    if distributed.is_first():
        facts = {
            "autocast": str(dtype).removeprefix("torch."),
            "unfold": unfold,
            "total_steps": total,
            "views_per_step": config.views_per_step,
            **source.facts,
        }
        write_json({**asdict(config), **facts}, out / "config.json")
    if saved:
        training.restore(saved[-1])
    _logger.info(
        "%s; from step %d to %s on %s in %s",
        source,
        training.step,
        training.goal,
        device,
        str(dtype).removeprefix("torch."),
    )
    return training


def _train(training: Training, progress: bool) -> None:
    """Iterate to the end, with a log, pictures and checkpoints on the way. Raises Stopped."""
    config, out, sub_steps = training.config, training.out, training.sub_steps
    flops, peak = Flops(), matmul_peak(sub_steps.device, sub_steps.dtype)
    wanted = config.tensorboard and distributed.is_first()
    writer = tensorboard_writer(out / "tensorboard", training.step) if wanted else None
    log = Log(out / "log.jsonl", config.views_per_step, training.step, peak, writer)
    saved_at = time.monotonic()
    with (
        closing(writer) if writer else nullcontext(),
        distributed.shared_norms(training.nets),
        unfolded_convs(training.nets, training.unfold),
        until_interrupted() as interrupted,
        Progress(training.total, "steps", progress, "training", initial=training.step) as bar,
    ):
        while training.done < 1 and not (asked := distributed.largest(interrupted())):
            observe = (training.step + 1) % config.log_steps == 0 or training.step + 1 == training.total
            kind = (training.next_size, observe)
            with flops.counted(kind) as is_first, training.nets.compiled(config.compile and not is_first):
                try:
                    losses, lr = training.iterate(observe)
                except (DataError, ReaderError, RemoteError) as error:  # of the images, before anything moved
                    if distributed.is_first() and training.step:
                        training.save()
                    raise type(error)(f"{error}; {last_checkpoint(out)}") from error
                except torch.OutOfMemoryError as error:
                    raise OptionError(
                        f"a step of this run does not fit into the memory of {sub_steps.device.type} "
                        f"({str(error).partition('. ')[0]}); start again with a smaller --batch or "
                        "--pose-batch"
                    ) from error
            step = training.step
            values = _finite_losses(losses, step, out)
            training.epochs.add(values)
            if not distributed.is_first():
                continue
            is_last = training.done >= 1
            bar.update(1)
            if observe or is_last:
                figures = {name: float(value) for loss in losses for name, value in loss.figures.items()}
                line = {**values, **figures, **training.source.figures}
                rates = log.write(step, step // training.epochs.length, lr, line, flops.total)
                bar.update(0, **{name: round(value, 3) for name, value in (rates | values).items()})
            if step % config.sample_steps == 0 or is_last:
                sub_steps.draw(out / f"samples/step-{step:08d}.png")
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                training.save()
                saved_at = time.monotonic()
        if distributed.is_first() and training.step:
            training.save()
    if not training.step:
        raise Stopped(
            f"stopped before the first step of {training.goal}; the same command starts again", asked
        )
    if training.done < 1:
        path = checkpoint_path(out, training.step)
        raise Stopped(
            f"stopped after step {training.step} of {training.goal}, saved {path}; "
            "the same command continues",
            asked,
        )


def _finite_losses(found: Sequence[Loss], step: int, out: Path) -> dict[str, float]:
    """The losses of a step as numbers, all in one look: a GPU waits for each.

    Raises FacepclError if one of them, or a weighted sum of a sub-step, is not finite.
    """
    parts = {name: part for loss in found for name, part in loss.parts.items()}
    shares = torch.stack([loss.detach().float() for loss in (*parts.values(), *(f.total for f in found))])
    values = distributed.total(shares).tolist()
    losses = dict(zip(parts, values, strict=False))
    if not all(map(math.isfinite, values)):
        # the first: those behind it come from weights that it broke
        broken = next((name for name, value in losses.items() if not math.isfinite(value)), "a weighted loss")
        raise FacepclError(f"{broken} is no longer finite at step {step}; {last_checkpoint(out)}; lower --lr")
    return losses
