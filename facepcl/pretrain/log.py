"""The record of a run: `log.jsonl`, TensorBoard events, and pictures of the decoder's output."""

import json
import logging
import math
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from facepcl.images.sheet import font
from facepcl.pretrain import distributed
from facepcl.utils.files import atomic, write_text, writing

_logger = logging.getLogger("facepcl")

# ' = code of the mirror image
ROWS = ("image", "mirror", "face + pose'", "face' + pose", "face + pose", "face' + pose'")
MARGIN = 92  # pixels for the captions


def _conv_backward_flops(
    grad: torch.Size, x: torch.Size, weight: torch.Size, *options: Any, out_shape: Any = None
) -> int:
    """Each gradient of a convolution costs as many operations as its output.

    torch's own formula counts the weights of a grouped one as if it had one group.
    """
    transposed, wanted = options[4], options[7][:2]
    places = x if transposed else grad
    return 2 * places[0] * math.prod(places[2:]) * math.prod(weight) * sum(wanted)


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(*shapes: Any, **_: Any) -> int:
    return sdpa_backward_flop_count(*shapes[:4])


# what torch counts wrongly, or not at all
FLOPS = {
    torch.ops.aten.convolution_backward: _conv_backward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


class Flops:
    """Floating-point operations of all steps so far, counted in the first step of each kind."""

    def __init__(self) -> None:
        self._by_kind: dict[Hashable, int] = {}
        self.total = 0

    @contextmanager
    def counted(self, kind: Hashable) -> Iterator[bool]:
        """Add the operations of the step inside to `total`. Yields whether it is the first of its `kind`:
        compiled code cannot be counted."""
        counter = None if kind in self._by_kind else FlopCounterMode(display=False, custom_mapping=FLOPS)
        with counter or nullcontext():
            yield counter is not None
        if counter:
            self._by_kind[kind] = counter.get_total_flops()
        self.total += self._by_kind[kind]


class Log:
    """`log.jsonl` of a run that continues after `step`; later lines, of a killed run, are removed.

    The MFU is relative to `peak` operations per second. TensorBoard's `writer` gets the same values.
    """

    def __init__(self, path: Path, views_per_step: int, step: int, peak: float, writer: Any = None):
        self.path, self.views_per_step, self.peak, self.writer = path, views_per_step, peak, writer
        self.last_step, self.last_flops, self.last_time = step, 0, time.monotonic()
        if path.is_file() and distributed.is_first():
            kept = [json.dumps(line) + "\n" for line in read_log(path) if line["step"] <= step]
            write_text(path, "".join(kept))

    def leave_out(self, seconds: float) -> None:
        """Do not count this time, in which no step was made, in the next rates."""
        self.last_time += seconds

    def write(
        self, step: int, epoch: int, lr: float, values: Mapping[str, float], flops: int
    ) -> dict[str, float]:
        """Append a line, `flops` counted from the start; return the rates for a progress bar."""
        # significant digits, since losses differ in magnitude; counts stay whole
        rounded = {name: v if isinstance(v, int) else float(f"{v:.6g}") for name, v in values.items()}
        now = time.monotonic()
        seconds = max(now - self.last_time, 1e-9)  # a clock may tick 64 times a second
        rate = round((step - self.last_step) * self.views_per_step / seconds, 1)
        mfu = round((flops - self.last_flops) / seconds / self.peak, 3)
        self.last_step, self.last_flops, self.last_time = step, flops, now
        line = {"epoch": epoch, "lr": lr, "views_per_s": rate, "mfu": mfu, **rounded}
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        if self.writer:
            for name, value in line.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()
        return {"views/s": rate, "mfu": mfu}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a `log.jsonl`, without a last one that was cut off while written. Others that are damaged
    are left out with a warning."""
    lines, damaged = [], 0
    for text in path.read_text("utf-8", "replace").split("\n")[:-1]:
        try:
            line = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError):
            line = text
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
        elif line is not None:
            damaged += 1
    if damaged:
        _logger.warning("%s: %d damaged lines are left out", path, damaged)
    return lines


def tensorboard_writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer for a run that resumes after `step`."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def draw_reconstructions(path: Path, image: torch.Tensor, decoded: Sequence[torch.Tensor]) -> None:
    """Write a PNG of eight columns: images `[B, 3, S, S]` in [0, 1], their mirrors, and the four decoded
    versions."""
    rows = [t.detach()[:8].float().cpu() for t in (image, image.flip(3), *decoded)]
    size = image.shape[-1]
    sheet = Image.new("RGB", (MARGIN + size * len(rows[0]), size * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (caption, row) in enumerate(zip(ROWS, rows, strict=True)):
        pen.text((4, y * size + size // 2 - 6), caption, fill="black", font=font(12))
        for x, tile in enumerate(row):
            levels = (tile.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(levels), (MARGIN + x * size, y * size))
    path.parent.mkdir(exist_ok=True)
    with atomic(path) as temporary:
        sheet.save(temporary, "PNG")
