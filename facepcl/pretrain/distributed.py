"""Data-parallel training under torchrun: `torchrun --nproc-per-node 2 -m facepcl pretrain ...`.

Each process makes the views of its slice of every batch. Losses that compare samples gather the features of
all processes; each process computes the terms of its own samples. The terms add up to the loss of one process
on the whole batch, and so do their gradients. With one process every function here is a no-op.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from facepcl.errors import FacepclError, OptionError, first_cause
from facepcl.models.branches import full_precision
from facepcl.utils import launch

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join torchrun's process group, if there is one, and leave it at the end.

    Raises FacepclError if another process dies, and OptionError where torchrun could not restart them, or if
    the environment names several processes without all that they need to meet.
    """
    share = None if dist.is_initialized() else launch.torchrun_share()
    if share is None and not dist.is_initialized():
        launch.check_alone()
    if share is None or share.world_size == 1:
        yield
        return
    needed = ["MASTER_ADDR", "MASTER_PORT", *["LOCAL_RANK"] * (torch.cuda.device_count() > 1)]
    if missing := [name for name in needed if not os.environ.get(name)]:
        raise OptionError(
            f"WORLD_SIZE is {share.world_size} and {missing[0]} is not set: start the processes by torchrun"
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=_store_of_attempt(store), rank=rank, world_size=size)
    try:
        yield
    except RuntimeError as error:
        is_lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        if isinstance(error, FacepclError) or not is_lost:
            raise
        reason = first_cause(error).partition(". ")[0]
        raise FacepclError(
            f"process {rank} of {size} lost its connection to another ({reason}); the same command continues "
            "from the last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def _store_of_attempt(store: dist.Store) -> dist.Store:
    """Torchrun's store without the keys of attempts before a restart: a process that reads them waits for
    dead ones (pytorch#135712)."""
    get = os.environ.get
    if get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store  # a new one for each attempt
    if get("LOCAL_WORLD_SIZE") == get("WORLD_SIZE"):
        return dist.PrefixStore(f"attempt-{get('TORCHELASTIC_RESTART_COUNT')}", store)
    if get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":  # each machine counts its own restarts
        raise OptionError(
            "--max-restarts on several machines needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 set for torchrun"
        )
    return store


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes the run's files."""
    return rank() == 0


def local_device(device: torch.device) -> torch.device:
    """`device`, or this process's own GPU where several processes share a machine."""
    if world_size() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise OptionError(f"several processes train on cuda or cpu, not on --device {device.type}")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def check_batches(batches: Mapping[str, int]) -> None:
    """Raise OptionError for a batch, by its option, that the world size does not divide."""
    for option, batch in batches.items():
        if batch % world_size():
            raise OptionError(
                f"{option} must be a multiple of {world_size()}, the number of processes, not {batch}"
            )


def local_slice(batch: int) -> slice:
    """This process's samples of a batch."""
    rank, size = (dist.get_rank() if world_size() > 1 else 0), batch // world_size()
    return slice(rank * size, (rank + 1) * size)


def broadcast_object(value: T) -> T:
    """The first process's `value`, where processes might decide differently."""
    if world_size() == 1:
        return value
    objects = [value]
    dist.barrier()
    dist.broadcast_object_list(objects)
    return objects[0]


def all_reduce_max(number: int) -> int:
    """The maximum of `number` over the processes."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


@torch.no_grad()
def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of `tensor` over the processes, without a gradient."""
    return tensor if world_size() == 1 else _AllReduce.apply(tensor)


def all_gather(rows: torch.Tensor, copies: int = 1) -> torch.Tensor:
    """Concatenate the rows `[copies b, ...]` of all processes, `copies` per sample, to `[copies B, ...]`.

    The backward pass sums the gradients of all processes.
    """
    return rows if world_size() == 1 else _AllGather.apply(full_precision(rows), copies)


def all_reduce_gradients(network: nn.Module) -> None:
    """Replace each gradient of `network` by its sum over the processes, in one call."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


@contextmanager
def sync_batch_norms(network: nn.Module) -> Iterator[None]:
    """Compute the statistics of every batch norm of `network` over the whole batch within this context."""
    layers = network.modules() if world_size() > 1 else ()
    norms: list[nn.Module] = [layer for layer in layers if isinstance(layer, _BatchNorm)]
    classes = [type(layer) for layer in norms]
    synced = [_synced(kind) for kind in classes]
    for layer, kind in zip(norms, synced, strict=True):
        layer.__class__ = kind
    try:
        yield
    finally:
        for layer, plain in zip(norms, classes, strict=True):
            layer.__class__ = plain


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, copies: int) -> torch.Tensor:
        ctx.copies = copies
        gathered = [
            torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) for _ in range(world_size())
        ]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat([rows.unflatten(0, (copies, -1)) for rows in gathered], 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        summed = gradient.clone()
        dist.all_reduce(summed)
        by_copy = summed.unflatten(0, (ctx.copies, -1))
        return by_copy[:, local_slice(by_copy.shape[1])].flatten(0, 1), None


class _AllReduce(torch.autograd.Function):
    """Sum over the processes, forward and backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _AllReduce.apply(gradient)


class _SyncBatchNorm(_BatchNorm):
    """Batch norm over the rows of all processes; torch's SyncBatchNorm does not run on the CPU."""

    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        shape = (1, -1, *[1] * (x.dim() - 2))
        rows = x.numel() // x.shape[1] * world_size()
        with torch.autocast(x.device.type, enabled=False):
            exact = full_precision(x)
            mean = _AllReduce.apply(exact.sum(dims)) / rows
            centred = exact - mean.view(shape)
            variance = _AllReduce.apply(centred.square().sum(dims)) / rows
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)
            normal = centred * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                normal = normal * self.weight.view(shape) + self.bias.view(shape)
            return self._activated(normal.to(x.dtype))

    def _activated(self, normal: torch.Tensor) -> torch.Tensor:
        return normal


class _SyncBatchNormAct(_SyncBatchNorm):
    """timm's batch norm with an activation behind it."""

    act: nn.Module
    drop: nn.Module

    def _activated(self, normal: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(normal))


def _synced(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of batch norms of this `kind` over the rows of all processes."""
    if issubclass(kind, nn.SyncBatchNorm):
        return kind
    if kind.forward is _BatchNorm.forward:
        return type(kind.__name__, (_SyncBatchNorm, kind), {})
    if kind.forward is BatchNormAct2d.forward:
        return type(kind.__name__, (_SyncBatchNormAct, kind), {})
    raise OptionError(
        f"this model has batch norms of timm's class {kind.__name__}, which know the images of one process "
        "only; train it with one process"
    )
