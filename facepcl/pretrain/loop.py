"""Pretraining: `facepcl.pretrain.run(facepcl.pretrain.Config(data=("faces.tar",), out="runs/first"))`.

An iteration runs the tasks of its method (`config.METHODS`), each with its own backward pass and Adam step.
PCL has three (METHOD 4): disentangle, contrast faces, contrast poses; `substeps` computes their losses. All
random numbers of an iteration come from a generator seeded by (seed, step), so an interrupted run resumes
with bit-identical results.
"""

import copy
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from facepcl.errors import (
    DataError,
    FacepclError,
    MissingPath,
    OptionError,
    ReaderError,
    RemoteError,
    WeightsError,
    require,
)
from facepcl.models.factory import find_heads
from facepcl.models.io import save_encoder, size_cfg
from facepcl.pretrain import distributed
from facepcl.pretrain.checkpoints import (
    check_same_run,
    check_writable,
    checkpoint_path,
    checkpoints,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from facepcl.pretrain.config import CONTRASTS, Config
from facepcl.pretrain.log import Flops, Log, tensorboard_writer
from facepcl.pretrain.networks import NORMALISATION, Networks
from facepcl.pretrain.online_probe import OnlineProbe
from facepcl.pretrain.release import EMA, update_batch_norms
from facepcl.pretrain.rng import seeded_dropout
from facepcl.pretrain.sampler import InMemory, schedule
from facepcl.pretrain.stream import Stream
from facepcl.pretrain.substeps import Loss, Source, Tasks
from facepcl.pretrain.unfolded import unfolded_convs, unfolding_pays
from facepcl.utils.device import find_device, matmul_peak, out_of_memory, training_dtype
from facepcl.utils.files import alone, check_outside, write_text
from facepcl.utils.progress import Progress
from facepcl.utils.signals import Stopped, until_interrupted
from facepcl.utils.torch_state import default_torch_state

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
    # an easy epoch may end at a loss of 0
    ratios = [now / max(before, 1e-12) for now, before in zip(history[-1], history[-2], strict=True)]
    rates = [math.exp((ratio - max(ratios)) / TEMPERATURE) for ratio in ratios]
    return tuple(count * rate / sum(rates) for rate in rates)


@dataclass
class Training:
    """The state of a run."""

    config: Config
    source: Source
    nets: Networks
    ema: EMA | None
    optimizer: torch.optim.Optimizer
    tasks: Tasks
    size: int  # input size of the released encoder, in pixels
    total: int | None  # steps; None with --minutes
    epoch_length: int  # in steps
    unfold: bool  # compute convolutions on tiny maps as matrix products
    step: int = 0
    seconds: float = 0.0  # of the steps, with --minutes
    history: list[list[float]] = field(default_factory=list)  # mean contrast losses of finished epochs
    this_epoch: list[list[float]] = field(default_factory=list)  # contrast losses of each step

    def __post_init__(self) -> None:
        self.out = Path(self.config.out)
        self.contrasts = [task for task in self.config.tasks if task in CONTRASTS]

    def restore(self, checkpoint: Path) -> None:
        self.step, progress = load_checkpoint(checkpoint, self.nets, self.optimizer, self.ema)
        if not (isinstance(progress, dict) and progress.keys() >= {"history", "this_epoch"}):
            raise WeightsError(f"{checkpoint} is not a checkpoint of a run: its progress is missing")
        self.source.place = progress.get("place", [])  # missing in older checkpoints
        self.seconds = progress.get("seconds", 0.0)
        self.history, self.this_epoch = progress["history"], progress["this_epoch"]

    def save(self) -> None:
        progress = {
            "history": self.history,
            "this_epoch": self.this_epoch,
            "place": self.source.place,
            "seconds": self.seconds,
        }
        save_checkpoint(self.out, self.step, self.nets, self.optimizer, progress, self.ema)

    @property
    def goal(self) -> str:
        """The length of the run, in words."""
        return f"{self.config.minutes:g} minutes" if self.total is None else str(self.total)

    @property
    def done(self) -> float:
        """The finished fraction of the run."""
        return self.step / self.total if self.total else min(1.0, self.seconds / (60 * self.config.minutes))

    @property
    def next_size(self) -> int:
        """The side of the views of the next step."""
        return self.config.size_at(self.done, self.step) or self.size

    def iterate(self, observe: bool = False) -> tuple[list[Loss], float]:
        """Run one iteration; return the losses of its tasks and the learning rate."""
        config, done, start = self.config, self.done, time.monotonic()
        self.tasks.size = self.next_size
        lr = config.lr * schedule(done, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        weights = dynamic_weights(self.history, len(self.contrasts))
        losses = []
        tasks = self.tasks.of_step(self.step, done, dict(zip(self.contrasts, weights, strict=True)), observe)
        with seeded_dropout(self.tasks.device, config.seed, self.step, distributed.rank()):
            for loss in tasks:
                self.optimizer.zero_grad(set_to_none=config.gradients == "none")
                loss.total.backward()
                distributed.all_reduce_gradients(self.nets)
                self.optimizer.step()
                losses.append(loss._replace(total=loss.total.detach()))
        self.step += 1
        if self.total is None:
            self.seconds = distributed.broadcast_object(self.seconds + time.monotonic() - start)
        if self.ema:
            self.ema.update(self.nets, self.step)
        return losses, lr

    def record(self, losses: Mapping[str, float]) -> None:
        """Keep the contrast losses of a step for the dynamic weights."""
        self.this_epoch.append([losses[name] for name in self.contrasts])
        if len(self.this_epoch) == self.epoch_length:
            columns = zip(*self.this_epoch, strict=True)
            self.history.append([sum(column) / self.epoch_length for column in columns])
            self.this_epoch.clear()

    def release(self) -> None:
        """Save the encoder, with its decoder and heads if it has them, as a folder that timm loads."""
        released: Any = self.ema or self.nets
        update_batch_norms(released, self.source.sample, self.size, self.config.freeze)
        heads = released.label_heads.as_linear() if hasattr(released, "label_heads") else None
        decoder = getattr(released, "decoder", None)
        save_encoder(released.encoder.eval(), self.out / "encoder", decoder, heads=heads)


@distributed.process_group()
@default_torch_state()
@torch.random.fork_rng(devices=[])
def run(config: Config, progress: bool = False) -> Path:
    """Train an encoder, or resume the run in `config.out`, and save it to `RUN/encoder`.

    Under torchrun every process calls this with the same `config`; the first one writes. Ctrl-C and SIGTERM
    finish the iteration, save a checkpoint and raise `Stopped`, a KeyboardInterrupt.

    Autocast, inference mode, the default dtype and other state of torch that the caller has set do not change
    the result; the number of threads changes its rounding.

    Args:
        config: Every hyperparameter; recorded in `RUN/config.json`.
        progress: Show a progress bar.

    Returns:
        The folder of the encoder, for `facepcl.create_model("local-dir:FOLDER", pretrained=True)`.

    Raises:
        OptionError: A hyperparameter is invalid, or differs from that of the run to resume.
        MissingPath: The data does not exist.
        DataError: Images or labels are too few or broken; with `stream` also during training, after a
            checkpoint is saved.
        RemoteError: With `stream`, a server fails.
        ReaderError: With `stream`, worker processes fail.
        FacepclError: A loss is no longer finite.

    Example:
        >>> config = facepcl.pretrain.Config(data=("faces/",), out="runs/first", steps=1000)
        >>> encoder = facepcl.pretrain.run(config)
    """
    if not isinstance(config, Config):
        raise OptionError("run takes a Config, as in run(Config(data='faces', out='runs/first'))")
    config.check()
    distributed.check_batches(config.batches)
    out = Path(config.out)
    check_writable(out)
    check_outside(out, config.data)
    if config.tensorboard:
        require("tensorboard", "tensorboard")
    refusal = f"--out {out}: another process is training there; give another --out"
    progress = progress and distributed.is_first()
    with alone(out, refusal) if distributed.is_first() else nullcontext():
        training = _start(config, progress)
        with closing(training.source):
            _train(training, progress)
            if distributed.is_first():
                training.release()
        return distributed.broadcast_object(out / "encoder")


def _start(config: Config, progress: bool) -> Training:
    """Create the data source, networks and optimiser, and load the last checkpoint."""
    out = Path(config.out)
    previous_config = check_same_run(out / "config.json", asdict(config))
    device = distributed.local_device(find_device(config.device))
    source: Source = (
        Stream.of(config, previous_config, device)
        if config.stream
        else InMemory(config, previous_config, progress)
    )
    torch.default_generator.manual_seed(config.seed)
    nets = Networks(config.model, source.label_outputs, config.tasks)
    if source.label_outputs and distributed.is_first():
        read = {spec.input for spec in nets.label_heads.specs.values()}
        for branch in sorted({"face", "pose"} - read):
            _logger.warning("no label of the data trains the %s branch: its code stays as it begins", branch)
    saved = distributed.broadcast_object(checkpoints(out))  # a shared file system may lag behind
    if config.init and not saved:
        nets.start_from(config.init, (config.final_size or nets.own_size) if config.freeze else 0)
    elif saved:
        known = [key for key in NORMALISATION if key in previous_config]  # not in runs of earlier versions
        nets.encoder.pretrained_cfg |= {key: tuple(previous_config[key]) for key in known}
    nets.to(device).to(memory_format=torch.channels_last).train()
    if config.freeze:
        nets.encoder.eval()
    size = config.final_size or nets.own_size
    nets.check_sizes(config.sizes or {size})
    if size > config.source_size and distributed.is_first():
        _logger.warning(
            "views of %d pixels are enlarged from --source-size %d; raise it if the images are larger",
            size,
            config.source_size,
        )
    nets.encoder.pretrained_cfg |= size_cfg(nets.encoder, size)
    sample = torch.rand(min(config.batch, 32), 3, size, size).to(device)
    timed = copy.deepcopy(nets.encoder)  # since passes move the statistics of batch norms
    dtype = training_dtype(previous_config.get("autocast", config.dtype), timed, sample[:8])
    dtype = distributed.broadcast_object(dtype)
    if config.dtype == "auto" and not previous_config:
        unfold = unfolding_pays(timed, sample, dtype)
    else:  # as recorded, since rounding differs; a given dtype is reproducible without timing
        unfold = previous_config.get("unfold", False)
    unfold = distributed.broadcast_object(unfold)
    del timed
    if config.freeze:
        nets.encoder.requires_grad_(False)  # now that passes with gradients have been timed
    tasks = Tasks(config, source, nets, size, dtype)
    if config.init and not saved and "labels" in config.tasks and (heads := find_heads(config.init)):
        tasks.start_heads(heads)  # before the average copies them
    per_epoch = source.count // config.batch
    total = None if config.minutes else config.steps or max(1, round(config.epochs * per_epoch))
    training = Training(
        config,
        source,
        nets,
        EMA(nets, config.ema) if config.ema else None,
        torch.optim.Adam(nets.parameters(), lr=config.lr, weight_decay=config.weight_decay),
        tasks,
        size,
        total,
        per_epoch,
        unfold,
    )
    dtype_name = str(dtype).removeprefix("torch.")
    if distributed.is_first():
        facts = {
            "autocast": dtype_name,
            "unfold": unfold,
            "total_steps": total,
            "views_per_step": config.views_per_step,
            **{key: nets.encoder.pretrained_cfg[key] for key in NORMALISATION},
            **source.facts,
        }
        write_text(out / "config.json", json.dumps({**asdict(config), **facts}, indent=2) + "\n")
    if saved:
        try:
            training.restore(saved[-1])
        except (WeightsError, MissingPath) as error:
            other = f"; delete {saved[-1]} to continue from the checkpoint before" if saved[:-1] else ""
            raise type(error)(f"{error}{other}") from error
    _logger.info(
        "%s; from step %d %s %s on %s in %s",
        *(source, training.step, "to" if training.total else "for", training.goal, device, dtype_name),
    )
    return training


def _train(training: Training, progress: bool) -> None:
    """Iterate to the end; write the log, reconstructions and checkpoints. Raises Stopped."""
    config, out, tasks = training.config, training.out, training.tasks
    flops, peak = Flops(), matmul_peak(tasks.device, tasks.dtype)
    has_writer = config.tensorboard and distributed.is_first()
    writer = tensorboard_writer(out / "tensorboard", training.step) if has_writer else None
    has_probe = config.probe_data and distributed.is_first()
    probe = OnlineProbe((config.probe_data,), config.source_size, config.cls) if has_probe else None
    log = Log(out / "log.jsonl", config.views_per_step, training.step, peak, writer)
    saved_at = time.monotonic()
    with (
        closing(writer) if writer else nullcontext(),
        distributed.sync_batch_norms(training.nets),
        unfolded_convs(training.nets, training.unfold),
        until_interrupted() as interrupted,
        Progress(training.total, "steps", progress, "training", initial=training.step) as bar,
    ):
        while training.done < 1 and not (signal := distributed.all_reduce_max(interrupted())):
            observe = (training.step + 1) % config.log_steps == 0 or training.step + 1 == training.total
            kind = (training.next_size, observe)
            with flops.counted(kind) as is_first, training.nets.compiled(config.compile and not is_first):
                try:
                    with out_of_memory():
                        losses, lr = training.iterate(observe)
                except (DataError, ReaderError, RemoteError) as error:  # before any weight changed
                    if distributed.is_first() and training.step:
                        training.save()
                    raise type(error)(f"{error}; {last_checkpoint(out)}") from error
                except torch.OutOfMemoryError as error:
                    raise OptionError(
                        f"a step of this run does not fit into the memory of {tasks.device.type} "
                        f"({str(error).partition('. ')[0]}); start again with a smaller --batch or "
                        "--pose-batch"
                    ) from error
            step = training.step
            values = _finite_losses(losses, step, out)
            training.record(values)
            if not distributed.is_first():
                continue
            is_last = training.done >= 1
            bar.update(1)
            if observe or is_last:
                metrics = {name: float(value) for loss in losses for name, value in loss.metrics.items()}
                line = {**values, **metrics, **training.source.metrics}
                if probe and (is_last or step % config.probe_steps < config.log_steps):
                    begin = time.monotonic()
                    line |= probe(training.nets.encoder, training.size)
                    log.leave_out(time.monotonic() - begin)
                rates = log.write(step, step // training.epoch_length, lr, line, flops.total)
                bar.update(0, **{name: round(value, 3) for name, value in (rates | values).items()})
            if step % config.sample_steps == 0 or is_last:
                tasks.draw(out / f"samples/step-{step:08d}.png")
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                training.save()
                saved_at = time.monotonic()
        if distributed.is_first() and training.step:
            training.save()
    if not training.step:
        message = f"stopped before the first step of {training.goal}; the same command starts again"
        raise Stopped(message, signal)
    if training.done < 1:
        raise Stopped(
            f"stopped after step {training.step} of {training.goal}, saved "
            f"{checkpoint_path(out, training.step)}; the same command continues",
            signal,
        )


def _finite_losses(losses: Sequence[Loss], step: int, out: Path) -> dict[str, float]:
    """The losses of a step, summed over the processes and fetched at once, since a GPU waits for each copy.

    Raises FacepclError if one of them, or the weighted sum of a task, is not finite.
    """
    parts = {name: part for loss in losses for name, part in loss.parts.items()}
    terms = torch.stack([t.detach().float() for t in (*parts.values(), *(loss.total for loss in losses))])
    values = distributed.all_reduce_sum(terms).tolist()
    by_name = dict(zip(parts, values, strict=False))
    if not all(map(math.isfinite, values)):
        # name the first: it broke the weights from which the later ones come
        broken = next(
            (name for name, value in by_name.items() if not math.isfinite(value)), "a weighted loss"
        )
        raise FacepclError(
            f"{broken} is no longer finite at step {step}; {last_checkpoint(out)}; start again with a lower "
            "--lr and another --out"
        )
    return by_name
