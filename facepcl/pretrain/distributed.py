"""Several processes train as one would: `torchrun --nproc-per-node 2 -m facepcl pretrain ...`.

Each process makes its part of every batch. What a loss compares is gathered; each process computes the share
of its own samples in the loss of the whole batch. The shares add up to the loss of one process, and so do
their gradients. In one process nothing here does anything.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from facepcl.errors import FacepclError, OptionError
from facepcl.models.branches import full_precision
from facepcl.utils import launch

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Raises FacepclError when another process ends before its time, and OptionError where torchrun could not
    start them again.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=_of_this_attempt(store), rank=rank, world_size=size)
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise FacepclError(
            f"process {rank} of {size} has lost another ({reason}); the same command continues from the last "
            "checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def _of_this_attempt(store: dist.Store) -> dist.Store:
    """Torchrun's store without what processes said in it before a restart, which those that come first would
    take for an answer, and wait for the dead (pytorch#135712)."""
    given = os.environ.get
    if given("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store  # a new one each time
    if given("LOCAL_WORLD_SIZE") == given("WORLD_SIZE"):
        return dist.PrefixStore(f"attempt-{given('TORCHELASTIC_RESTART_COUNT')}", store)
    if given("TORCHELASTIC_MAX_RESTARTS", "0") != "0":  # machines count their restarts each for itself
        raise OptionError(
            "--max-restarts on several machines needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 set for torchrun"
        )
    return store


def count() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return dist.get_rank() == 0 if count() > 1 else launch.is_first()


def own_device(device: torch.device) -> torch.device:
    """`device`, or where it is a GPU and processes share the machine, this one's own."""
    if count() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise OptionError(f"--device {device.type}: processes train together on cuda or cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def check_batches(batches: Mapping[str, int]) -> None:
    """Raise OptionError for a batch, by its option's name, that the processes cannot share evenly."""
    for option, batch in batches.items():
        if batch % count():
            raise OptionError(f"{option} {batch}: {count()} processes share it, so a multiple of {count()}")


def part(batch: int) -> slice:
    """This process's samples of a batch."""
    rank, size = (dist.get_rank() if count() > 1 else 0), batch // count()
    return slice(rank * size, (rank + 1) * size)


def from_first(value: T) -> T:
    """The first process's `value`, for what processes might decide differently; all have come here."""
    if count() == 1:
        return value
    held = [value]
    dist.barrier()
    dist.broadcast_object_list(held)
    return held[0]


def largest(number: int) -> int:
    """The largest `number` of any process."""
    if count() == 1:
        return number
    shared = torch.tensor(number)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def gather(rows: torch.Tensor, copies: int = 1) -> torch.Tensor:
    """Rows `[copies b, ...]` of each process, `copies` rows a sample, as the `[copies B, ...]` of one.

    To a process's own rows come the gradients of all shares that they are in.
    """
    return rows if count() == 1 else _Gather.apply(full_precision(rows), copies)


@torch.no_grad()
def total(shares: torch.Tensor) -> torch.Tensor:
    """The sum over the processes of what each has a share of, without a gradient."""
    return shares if count() == 1 else _Sum.apply(shares)


def sum_gradients(network: nn.Module) -> None:
    """Put the sum of the processes' gradients in the place of each one's own."""
    if count() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


@contextmanager
def shared_norms(network: nn.Module) -> Iterator[None]:
    """Have every batch norm of `network` take its statistics over the whole batch, until the end."""
    norms = [layer for layer in network.modules() if type(layer) in SHARED and count() > 1]
    plain = [type(layer) for layer in norms]
    for layer in norms:
        layer.__class__ = SHARED[type(layer)]
    try:
        yield
    finally:
        for layer, kind in zip(norms, plain, strict=True):
            layer.__class__ = kind


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, copies: int) -> torch.Tensor:
        ctx.copies = copies
        parts = [torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) for _ in range(count())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat([rows.unflatten(0, (copies, -1)) for rows in parts], 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        shares = gradient.clone()
        dist.all_reduce(shares)
        whole = shares.unflatten(0, (ctx.copies, -1))
        return whole[:, part(whole.shape[1])].flatten(0, 1), None


class _Sum(torch.autograd.Function):
    """The sum over the processes of a tensor on which the rows of every process depend."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _SharedNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the rows of all processes; torch's SyncBatchNorm does not run on the CPU."""

    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        over = [dim for dim in range(x.dim()) if dim != 1]
        shape = (1, -1, *[1] * (x.dim() - 2))
        rows = x.numel() // x.shape[1] * count()
        with torch.autocast(x.device.type, enabled=False):
            exact = full_precision(x)
            mean = _Sum.apply(exact.sum(over)) / rows
            centred = exact - mean.view(shape)
            variance = _Sum.apply(centred.square().sum(over)) / rows
            self._note(mean.detach(), variance.detach() * rows / (rows - 1))
            normal = centred * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                normal = normal * self.weight.view(shape) + self.bias.view(shape)
            return normal.to(x.dtype)

    @torch.no_grad()
    def _note(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _SharedNorm1d(_SharedNorm, nn.BatchNorm1d):
    pass


class _SharedNorm2d(_SharedNorm, nn.BatchNorm2d):
    pass


SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _SharedNorm1d,
    nn.BatchNorm2d: _SharedNorm2d,
}
