"""Images to embeddings: `FaceEmbedder`."""

import copy
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

import facepcl
from facepcl.create import FAMILY, create_model
from facepcl.errors import ImageError, OptionError, WeightsError
from facepcl.images import decode, open_image, quiet_pillow, without_ends
from facepcl.index import rows_of
from facepcl.machine import DTYPES, find_device
from facepcl.models import Branches
from facepcl.sources import Item, check, list_files, read_items
from facepcl.tables import Row

MODEL, BRANCH, POOL = "pcl_facecycle", "shared", "code"
BRANCHES, POOLS = (*Branches._fields, "concat"), ("code", "flatten", "avg", "2x2")


class Prepared(NamedTuple):
    """One input on its way: what the network takes `[3, S, S]`, or the reason why there is nothing."""

    path: str
    image: torch.Tensor | None
    size: tuple[int, int] | None
    error: str | None = None


class FaceEmbedder:
    """Face crops to vectors: `FaceEmbedder("pcl_facecycle", branch="face")([path, pil_image, array])`.

    `model`: a name with pretrained weights, as for `facepcl.create_model`, any timm model's name, or a
    module as it is. `branch`: shared, face, pose or concat; a model without branches has `shared` only.
    `pool`: code (the model's own), flatten, avg or 2x2. Raises WeightsError if there are no weights,
    OptionError for other wrong arguments.
    """

    def __init__(
        self,
        model: str | nn.Module = MODEL,
        branch: str = BRANCH,
        *,
        pool: str = POOL,
        normalize: bool = False,
        batch_size: int = 32,
        device: str = "auto",
        dtype: str = "auto",
    ):
        if branch not in BRANCHES or pool not in POOLS:
            raise OptionError(
                f"branch {branch!r}, pool {pool!r}: choose {', '.join(BRANCHES)} and {', '.join(POOLS)}"
            )
        if batch_size < 1:
            raise OptionError(f"batch_size {batch_size}: at least 1")
        if dtype not in ("auto", *DTYPES):
            raise OptionError(f"dtype {dtype!r}: choose auto, {' or '.join(DTYPES)}")
        self.device = find_device(device)
        self.dtype = DTYPES.get(dtype, torch.float32)
        self.branch, self.pool, self.normalize, self.batch_size = branch, pool, normalize, batch_size
        self.model: Any = _load(model).eval().float().to(self.device).to(memory_format=torch.channels_last)
        if not hasattr(self.model, "forward_features"):
            raise OptionError(f"a {self.name} has no forward_features; give a timm model or its name")
        branches = getattr(self.model, "face", None) is not None  # None in a trunk and in a pruned model
        self.has_branches = branches and hasattr(self.model, "forward_branches")
        if branch != "shared" and not self.has_branches:
            raise OptionError(
                f"{self.name} has no branches, so branch {branch!r} does not exist; use 'shared'"
            )
        config = resolve_model_data_config(self.model)
        self.size = config["input_size"][-1]
        self.transform = create_transform(**config, is_training=False)
        self.meta = self._describe(config)

    @property
    def name(self) -> str:
        return (getattr(self.model, "pretrained_cfg", None) or {}).get("architecture") or type(
            self.model
        ).__name__

    def _describe(self, config: dict[str, Any]) -> dict[str, Any]:
        """What a table says of its embeddings; `space` is the same for vectors that may be compared."""
        cfg = getattr(self.model, "pretrained_cfg", None) or {}
        weights = _hash_weights(self.model)
        preprocessing = {k: config[k] for k in sorted(config)}
        space = json.dumps([weights, self.branch, self.pool, preprocessing], default=str)
        blank = torch.zeros(1, *config["input_size"])
        return {
            "dimension": self.vectors(self.maps(blank)).shape[1],
            "model": self.name,
            "tag": cfg.get("tag"),
            "weights_sha256": _file_hash(cfg) or weights,
            "branch": self.branch,
            "pool": self.pool,
            "normalize": self.normalize,
            "preprocessing": json.loads(json.dumps(preprocessing, default=str)),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "facepcl": facepcl.__version__,
            "space": hashlib.sha256(space.encode()).hexdigest()[:12],
        }

    def maps(self, images: torch.Tensor, all_branches: bool = False) -> dict[str, torch.Tensor]:
        """Branch maps of `[B, 3, S, S]`: the trunk's alone where no other is asked for."""
        images = images.to(self.device, memory_format=torch.channels_last)
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with torch.inference_mode(), autocast:
            if self.branch == "shared" and not all_branches:
                return {"shared": self.model.forward_features(images)}
            return self.model.forward_branches(images)._asdict()

    def vectors(self, maps: dict[str, torch.Tensor]) -> np.ndarray:
        """The embeddings `[B, D]` float32 of the branch maps."""
        chosen = Branches._fields if self.branch == "concat" else (self.branch,)
        with torch.inference_mode():
            vectors = torch.cat([self._pooled(name, maps[name]) for name in chosen], 1).float()
            return (F.normalize(vectors) if self.normalize else vectors).cpu().numpy()

    def _pooled(self, branch: str, maps: torch.Tensor) -> torch.Tensor:
        if self.pool == "code":
            if not self.has_branches:
                return self.model.forward_head(maps, pre_logits=True)
            return self.model.shared_code(maps) if branch == "shared" else maps.flatten(1)
        if maps.ndim != 4:
            raise OptionError(f"{self.name} gives no [B, C, H, W] map, so use pool 'code'")
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":  # Swin and its kin
            maps = maps.permute(0, 3, 1, 2)
        return {
            "flatten": lambda: maps.flatten(1),
            "avg": lambda: maps.mean((2, 3)),
            "2x2": lambda: F.adaptive_avg_pool2d(maps, 2).flatten(1),
        }[self.pool]()

    def __call__(self, items: Iterable[Any]) -> np.ndarray:
        """Embeddings `[N, D]` float32 of paths, Pillow images, uint8 arrays or tensors, one row an input,
        in order.

        Raises ImageError or MissingPath that names the bad item.
        """
        if isinstance(items, (str, bytes, Path, Image.Image)):
            raise OptionError("give a list, as in embedder([image]); a folder is for embedder.stream(folder)")
        items = list(items)
        blocks = [np.empty((0, self.meta["dimension"]), np.float32)]
        with quiet_pillow():
            for start in range(0, len(items), self.batch_size):
                images = [
                    self._open(place, items[place])
                    for place in range(start, min(start + self.batch_size, len(items)))
                ]
                blocks.append(self.vectors(self.maps(torch.stack(images))))
        return np.concatenate(blocks)

    def _open(self, place: int, item: Any) -> torch.Tensor:
        try:
            return self.transform(without_ends(open_image(item)))
        except ImageError as error:
            name = f" ({item})" if isinstance(item, (str, Path)) else ""
            raise ImageError(f"item {place}{name}: {error}") from error

    def stream(self, source: str | Path | Sequence[str | Path], workers: int = 1) -> Iterator[Row]:
        """A row for each image of files, folders and `.tar` shards, in order, as they come.

        Memory does not grow. An image that cannot be embedded gives a row with the reason.
        """
        sources = [source] if isinstance(source, (str, Path)) else source
        for rows, _, _ in self.blocks(read_items(list_files(sources)), workers):
            yield from rows

    def blocks(
        self, items: Iterable[Item], workers: int, all_branches: bool = False
    ) -> Iterator[tuple[list[Row], list[Prepared], dict[str, torch.Tensor]]]:
        """Batches of rows in the order of `items`, with the good images among them and the maps of these.

        `workers` threads decode ahead while the network runs (Pillow and torch both let go of the
        interpreter).
        """
        with quiet_pillow():
            prepared = self._prepared_ahead(items, workers)
            index = 0
            while block := list(islice(prepared, self.batch_size)):
                good = [p for p in block if p.image is not None]
                images = [p.image for p in good if p.image is not None]
                maps = self.maps(torch.stack(images), all_branches) if images else {}
                vectors = iter(self.vectors(maps) if images else ())
                yield [_row(p, index + i, vectors) for i, p in enumerate(block)], good, maps
                index += len(block)

    def _prepared_ahead(self, items: Iterable[Item], workers: int) -> Iterator[Prepared]:
        """Prepared items in order; at most three batches wait, so memory does not grow."""
        waiting: deque[Future[Prepared]] = deque()
        pool = ThreadPoolExecutor(workers)
        try:
            for item in items:
                waiting.append(pool.submit(self._prepare, item))
                if len(waiting) >= 3 * self.batch_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after Ctrl-C nothing that waits is decoded any more
            pool.shutdown(cancel_futures=True)

    def _prepare(self, item: Item) -> Prepared:
        try:
            image = decode(check(item))
            return Prepared(item.path, self.transform(without_ends(image)), image.size)
        except ImageError as error:
            return Prepared(item.path, None, None, str(error))


def _row(prepared: Prepared, index: int, vectors: Iterator[np.ndarray]) -> Row:
    if prepared.size is None:
        return Row(prepared.path, index, prepared.error)
    return Row(prepared.path, index, None, *prepared.size, next(vectors))


def _load(model: str | nn.Module) -> nn.Module:
    if isinstance(model, nn.Module):
        # The caller's own stays in its mode and layout: safetensors refuses to save channels_last weights.
        return copy.deepcopy(model)
    plain = model.partition(".")[0]
    if ":" in model or plain in timm.list_models(FAMILY):
        return create_model(model, pretrained=True)
    if not timm.is_model(plain):
        raise OptionError(f"there is no model {model!r}; facepcl has {', '.join(timm.list_models(FAMILY))}")
    try:
        return timm.create_model(model, pretrained=True, num_classes=0)
    except (RuntimeError, OSError) as error:  # timm has no such weights, or the Hub cannot be reached
        raise WeightsError(f"{model}: {str(error).splitlines()[0]}") from error


def _file_hash(cfg: dict[str, Any]) -> str | None:
    """The sha256 of bundled weights, as in weights/index.json."""
    rows = rows_of(cfg.get("architecture") or "")
    return next((row.sha256 for row in rows if row.path and str(row.path) == cfg.get("file")), None)


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
