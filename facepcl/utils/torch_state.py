"""Torch's global and thread-local state: results must not depend on what a calling program has set."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch

_last_process: int | None = None  # that has computed
_lock, _users, _restore = Lock(), 0, ExitStack()  # of `_defaults_of_process`
if hasattr(os, "register_at_fork"):  # a child must not inherit a lock that another thread holds
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def use_own_threads() -> None:
    """Compute with one thread in a child of a process that has computed: the threads that shared its work do
    not outlive a fork, and would be waited for without end."""
    global _last_process
    process = os.getpid()
    if _last_process not in (None, process):
        torch.set_num_threads(1)
    _last_process = process


@contextmanager
def default_torch_state() -> Iterator[None]:
    """Compute with torch's defaults whatever the caller has set, and restore that at the end.

    Covers inference mode, gradients, autocast, default dtype and device, deterministic algorithms and the
    precision of float32 matrix products. The number of threads stays: it changes rounding alone. It is 1 in a
    forked child (`use_own_threads`).
    """
    use_own_threads()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            # without its cache, which is cleared at the end of the outermost autocast alone: training in
            # bfloat16 would compute with the weights of the first step to the end
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_defaults_of_process())
        yield


@contextmanager
def _defaults_of_process() -> Iterator[None]:
    """Torch's defaults for what all threads of a process share: set for the first thread that needs them and
    restored after the last one, or each could restore what another has set."""
    global _users
    with _lock:
        if not _users:
            _set_defaults()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _restore.close()


def _set_defaults() -> None:
    if (dtype := torch.get_default_dtype()) != torch.float32:
        _restore.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
    if torch.are_deterministic_algorithms_enabled():
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        _restore.callback(torch.use_deterministic_algorithms, True, warn_only=warn_only)
        torch.use_deterministic_algorithms(False)
    if (precision := torch.get_float32_matmul_precision()) != "highest":
        _restore.callback(torch.set_float32_matmul_precision, precision)
        torch.set_float32_matmul_precision("highest")
