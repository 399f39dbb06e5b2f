"""A model made ready to embed: pixels in, branch maps and vectors out, and the space in which they lie."""

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from numbers import Integral
from threading import Lock
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import nn

from facepcl._version import __version__
from facepcl.data.file_types import is_image_name
from facepcl.embedding.backends import BACKENDS, ONNX, Run, make_run
from facepcl.embedding.embeddings import IDENTITY
from facepcl.embedding.int8 import INT8, make_int8_run
from facepcl.errors import OptionError, WeightsError, check_known, unknown
from facepcl.images.transform import Transform
from facepcl.models.branched import as_map, check_input
from facepcl.models.branches import Branches
from facepcl.models.factory import create_model, create_of_timm, find_heads, unknown_model
from facepcl.models.heads import Heads
from facepcl.models.hub_folder import OfTimm
from facepcl.models.io import without_claims
from facepcl.models.model_args import LARGEST_SIDE
from facepcl.models.registry import MODELS, rows_of
from facepcl.utils.cpus import cores
from facepcl.utils.device import DTYPES, find_device, inference_dtype
from facepcl.utils.torch_state import default_torch_state, use_own_threads

FOR_IMAGES = "embed images by calling the embedder, as in FaceEmbedder()([image])"
TRAIN_HEADS = (
    "facepcl pretrain FACES --preset small --method labels --model MODEL --init WEIGHTS --freeze --out RUN "
    "trains one"
)
NAME_IT = "heads are loaded by name: give 'pcl_facecycle' or 'local-dir:FOLDER'"
POSE, FLIP = "pose", "flip"  # the branch that flip leaves alone; its key in the metadata
MODEL, BRANCH, POOL = "pcl_facecycle", "shared", "code"
BRANCH_NAMES, POOLS = (*Branches._fields, IDENTITY, "concat"), ("code", "flatten", "avg", "2x2")


class Encoder:
    """A timm model with one branch and one way of pooling, made ready to run; what `FaceEmbedder` is made
    of, whose docstring has the arguments."""

    def __init__(
        self,
        model: str | nn.Module = MODEL,
        branch: str = BRANCH,
        pool: str = POOL,
        normalize: bool = False,
        flip: bool = False,
        size: int = 0,
        batch_size: int = 64,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
    ):
        _check_options(branch, pool, batch_size, size, dtype, backend)
        batch_size, size = int(batch_size), int(size)  # numpy's integers do not go into JSON
        self.branch, self.pool, self.normalize, self.batch_size = branch, pool, normalize, batch_size
        self.flip, self._int8, self._backend = flip, dtype == INT8, backend
        self._runs: dict[bool, Run] = {}
        self._making, self._process = Lock(), os.getpid()
        self._given = model if isinstance(model, str) else None
        self.device = self._choose_device(device, dtype)
        with default_torch_state():
            loaded, heads = _load(model)
            loaded = loaded.eval().float().to(self.device)
            self.model: Any = loaded.to(memory_format=torch.channels_last)
            self.heads = heads and heads.to(self.device)
            self._check_model()
            config = self._read_preprocessing(size)
            weights = _hash_weights(self.model)
            self._choose_dtype(dtype)
        self.make_ready()
        self.meta = self._describe(config, weights, isinstance(model, str))

    @contextmanager
    def _inference(self) -> Iterator[None]:
        # cache_enabled as in default_torch_state: torch.compile recompiles whenever this flag changes
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False, cache_enabled=False):
            yield

    @property
    def _needs_runtime(self) -> bool:
        """Whether onnxruntime runs the network, which is on the CPU."""
        return self._int8 or self._backend == ONNX

    def _choose_device(self, device: str, dtype: str) -> torch.device:
        chosen = find_device("cpu" if self._needs_runtime and device == "auto" else device)
        if self._int8 and (chosen.type != "cpu" or self._backend not in ("auto", ONNX)):
            raise OptionError(f"dtype int8 runs on the CPU, with backend 'auto' or {ONNX!r}")
        if self._needs_runtime and (chosen.type != "cpu" or dtype == "bfloat16"):
            raise OptionError(f"backend {ONNX!r} runs on the CPU, in float32 or int8")
        return chosen

    def _check_model(self) -> None:
        """Refuse a module that is no timm model, and a branch that it does not have."""
        for needed in ("forward_features", "pretrained_cfg"):
            if not getattr(self.model, needed, None):
                kind = type(self.model).__name__
                raise OptionError(f"a {kind} has no {needed}; give a timm model or its name")
        branches = getattr(self.model, "face", None) is not None  # None in a trunk and in a pruned model
        self.has_branches = branches and hasattr(self.model, "forward_branches")
        self.check_branch(self.branch)

    @property
    def has_identity(self) -> bool:
        """Whether the weights have a head for identity."""
        return self.heads is not None and IDENTITY in self.heads.specs

    @property
    def likeness(self) -> str:
        """The branch by which faces are compared: identity, or the face code of weights without its head."""
        return IDENTITY if self.has_identity else "face"

    def check_branch(self, branch: str) -> None:
        """Raise OptionError for a branch that this model does not have."""
        names = branches_of(branch)
        if IDENTITY in names and not self.has_identity:
            raise OptionError(
                f"{self._given or 'a module'} has no identity head, which facepcl analyze and branch "
                f"{IDENTITY!r} need; {TRAIN_HEADS if self._given else NAME_IT}"
            )
        if IDENTITY in names and self.pool != POOL:
            raise OptionError(f"branch {IDENTITY!r} has a pool of its own; leave out pool {self.pool!r}")
        if {"face", "pose"} & set(names) and not self.has_branches:
            raise OptionError(
                f"{self.name} has no branches, so branch {branch!r} does not exist; use 'shared'"
            )
        if self.flip and names == (POSE,):
            raise OptionError(
                "flip cannot average pose codes, because a mirrored face has another pose: leave it out"
            )

    def _reads_branches(self, branch: str) -> bool:
        """Whether `branch` needs more than the trunk's maps."""
        return bool({"face", "pose"} & {self._map_of(name) for name in branches_of(branch)})

    def _map_of(self, name: str) -> str:
        return self.heads.specs[IDENTITY].input if name == IDENTITY and self.heads else name

    def _read_preprocessing(self, size: int) -> dict[str, Any]:
        """Set what becomes of an image, and return timm's description of it."""
        config = _with_size(resolve_model_data_config(self.model), size, self.model)
        self.transform = Transform.from_config(config)
        self.mean, self.std = (
            torch.tensor(config[key], dtype=torch.float32, device=self.device).view(-1, 1, 1)
            for key in ("mean", "std")
        )
        shape = self.transform.shape
        count = 8 if max(shape) <= 512 else 2
        self._sample = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
        return config

    def _choose_dtype(self, dtype: str) -> None:
        """Bring the model to the dtype that is asked for or, by a timing, to the faster one."""
        blank = self._images(self._sample, torch.float32)
        check_input(self.model, self.name, blank[:1])
        requested = "float32" if self._needs_runtime else dtype
        self.dtype = inference_dtype(requested, Trunk(self.model), blank)
        self.model.to(self.dtype)
        if self.dtype != torch.float32:
            check_input(self.model, self.name, blank[:1].to(self.dtype))

    @property
    def name(self) -> str:
        return self.model.pretrained_cfg.get("architecture") or type(self.model).__name__

    def _describe(self, config: dict[str, Any], weights: str, released: bool) -> dict[str, Any]:
        """What a table says of its embeddings; `space` is the same for vectors that may be compared.

        A module that is not the `released` one of a name may have been trained since, and keeps its cfg.
        """
        cfg = self.model.pretrained_cfg if released else {}
        preprocessing = {k: config[k] for k in sorted(config)}
        self._heads_hash = _hash_weights(self.heads) if self.heads else ""
        self._space = [weights, self.pool, preprocessing]
        blank = self.maps(self._sample[:2])
        columns = {
            name: {"dimension": self.vectors(blank, name).shape[1], "space": self.space(name)}
            for name in codes_of(self.branch)
        }
        return {
            "dimension": sum(column["dimension"] for column in columns.values()),
            "model": self.name,
            "tag": cfg.get("tag"),
            "weights_sha256": _file_hash(cfg) or weights,
            "branch": self.branch,
            "pool": self.pool,
            "normalize": self.normalize,
            **({FLIP: True} if self.flip else {}),
            "preprocessing": json.loads(json.dumps(preprocessing, default=str)),
            "dtype": INT8 if self._int8 else str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "backend": self._backend,
            "facepcl": __version__,
            "space": self.space(self.branch),
            **({"columns": columns} if len(columns) > 1 else {}),
        }

    def space(self, branch: str) -> str:
        """A short hash of weights, branch, pool, preprocessing and flip: vectors of one space compare."""
        weights, *rest = self._space
        if IDENTITY in codes_of(branch):
            rest.append(self._heads_hash)
        if self.flip and branch != POSE:
            rest.append(FLIP)
        text = json.dumps([weights, branch, *rest], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def batches_at_once(self) -> int:
        """How many threads may run this network: on a CPU as many as torch leaves cores to.

        Batches side by side do not wait for each other, as the threads of one batch do at each layer.
        """
        if self.device.type != "cpu" or self.meta["backend"] == "compile":
            return 1
        return max(1, cores() // torch.get_num_threads())

    def make_ready(self, all_branches: bool = False) -> None:
        """Trace or compile what `maps` will run, before several threads do.

        Raises OptionError in a child that was forked, if the network cannot run there.
        """
        if self._process != os.getpid():
            self._check_fork()
        wide = all_branches or self._reads_branches(self.branch)
        if wide in self._runs:
            return
        with self._making, default_torch_state():
            if wide not in self._runs:  # not made by another thread meanwhile
                self._runs[wide] = self._make_run(AllBranches(self.model) if wide else Trunk(self.model))

    def _make_run(self, network: nn.Module) -> Run:
        if self._int8:
            self._backend = ONNX
            return make_int8_run(network, self.name, self.transform.shape)
        sample = self._images(self._sample[:2], self.dtype)
        run, self._backend = make_run(network, sample, self._backend, self.batch_size)
        return run

    def _check_fork(self) -> None:
        """Run in a child of the process that made this, or refuse what does not outlive a fork."""
        if self.device.type != "cpu" or self._backend == "compile":
            where = "backend compile" if self.device.type == "cpu" else f"device {self.device.type}"
            raise OptionError(
                f"this embedder was created before the process was forked, and {where} does not work in the "
                "child: create it in the child, or start processes with multiprocessing's 'spawn'"
            )
        use_own_threads()
        self._making, self._process = Lock(), os.getpid()

    def maps(self, pixels: np.ndarray, all_branches: bool = False) -> dict[str, torch.Tensor]:
        """Branch maps of images uint8 `[B, H, W, 3]`: the trunk's alone where no other is asked for.

        With `flip`, the means of the maps of an image and of its mirror image, and so of its codes; the pose
        maps are those of the image alone.
        """
        self.make_ready(all_branches)
        run = self._runs[all_branches or self._reads_branches(self.branch)]
        with self._inference():
            maps = dict(zip(Branches._fields, run(self._images(pixels, self.dtype)), strict=False))
            if self.flip:
                images = self._images(np.ascontiguousarray(pixels[:, :, ::-1]), self.dtype)
                mirrored = dict(zip(Branches._fields, run(images), strict=False))
                means = {name: (maps[name].float() + mirrored[name]) / 2 for name in maps if name != POSE}
                maps |= means
            return maps

    def _images(self, pixels: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        """What the network takes, `[B, 3, H, W]`; as uint8 until it is on the device."""
        return normalised(torch.from_numpy(pixels).to(self.device), self.mean, self.std).to(dtype)

    def vectors(self, maps: dict[str, torch.Tensor], branch: str | None = None) -> np.ndarray:
        """The embeddings `[B, D]` float32 of the branch maps; `branch`: another than the encoder's own."""
        with self._inference():
            columns = []
            for column in codes_of(branch or self.branch):
                codes = [self._code(name, maps).float() for name in branches_of(column)]
                columns.append(F.normalize(torch.cat(codes, 1)) if self.normalize else torch.cat(codes, 1))
            return torch.cat(columns, 1).cpu().numpy()

    def _code(self, name: str, maps: dict[str, torch.Tensor]) -> torch.Tensor:
        if name == IDENTITY:
            assert self.heads
            needed = Branches(*(maps.get(field) for field in Branches._fields))  # type: ignore[arg-type]
            return self.heads.predict(IDENTITY, needed)
        return self._pooled(name, maps[name])

    def _pooled(self, branch: str, maps: torch.Tensor) -> torch.Tensor:
        if self.pool == "code":
            return code(self.model, branch, maps)
        if maps.ndim != 4:
            raise OptionError(f"{self.name} gives no [B, C, H, W] map, so use pool 'code'")
        maps = as_map(self.model, maps).float()
        return {
            "flatten": lambda: maps.flatten(1),
            "avg": lambda: maps.mean((2, 3)),
            "2x2": lambda: F.adaptive_avg_pool2d(maps, 2).flatten(1),
        }[self.pool]()


def _check_options(branch: Any, pool: str, batch_size: Any, size: Any, dtype: str, backend: str) -> None:
    if not isinstance(branch, str):
        raise OptionError(f"branch is a name, or several as 'face,pose', not {type(branch).__name__}")
    for name, number in (("batch_size", batch_size), ("size", size)):
        if not isinstance(number, Integral):
            raise OptionError(f"{name} is a whole number, not {number!r:.40}")
    branches_of(branch)
    check_known("pool", pool, POOLS)
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, not {batch_size}")
    check_known("backend", backend, BACKENDS)
    check_known("dtype", dtype, ("auto", *DTYPES, INT8))


def codes_of(branch: str) -> tuple[str, ...]:
    """`face,pose` as the codes that a table has a column of its own for; `concat` is one."""
    return tuple(branch.split(","))


def branches_of(branch: str) -> tuple[str, ...]:
    """The branches that `branch` is made of. Raises OptionError for what is none."""
    names = Branches._fields if branch == "concat" else codes_of(branch)
    if "concat" in names:
        raise OptionError("concat is shared, face and pose in one vector; beside other branches, name these")
    for name in names:
        if name not in (*Branches._fields, IDENTITY):
            raise OptionError(f"{unknown('branch', name, BRANCH_NAMES)}, or several as face,pose")
    if len(set(names)) < len(names):
        raise OptionError(f"branch {branch!r} names a branch twice")
    return names


def normalised(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """What a network takes, float32 `[B, 3, H, W]`, of images uint8 `[B, H, W, 3]`."""
    images = pixels.permute(0, 3, 1, 2)  # channels_last as it lies
    return images.float().div_(255).sub_(mean).div_(std)


def code(model: Any, branch: str, maps: torch.Tensor) -> torch.Tensor:
    """The model's own code `[B, D]` of the maps of one branch; the whole map where it does not pool."""
    if branch != "shared":
        return maps.flatten(1)
    if hasattr(model, "shared_code"):
        return model.shared_code(maps.float()).flatten(1)
    return model.forward_head(maps, pre_logits=True).flatten(1)


class Trunk(nn.Module):
    """The trunk's map alone, as a tuple."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model.forward_features(x),)


class AllBranches(Trunk):
    """The maps of the trunk, the face and the pose branch."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.forward_branches(x))


def _load(model: str | nn.Module) -> tuple[nn.Module, Heads | None]:
    """A network in float32, and the heads of weights of ours."""
    if isinstance(model, nn.Module):
        model = getattr(model, "_orig_mod", model)  # of torch.compile, which wraps forward alone
        if not hasattr(model, "forward_features"):  # in DataParallel or an average of weights
            model = getattr(model, "module", model)
        # The caller's own stays in its mode and layout: safetensors refuses to save channels_last weights.
        return copy.deepcopy(model), None
    if not isinstance(model, str):
        raise OptionError(
            f"a {type(model).__name__} is not a model: give a name or a timm module; {FOR_IMAGES}"
        )
    plain = model.partition(".")[0]
    if ":" in model or plain in MODELS:
        with suppress(OfTimm):
            return create_model(model, pretrained=True), find_heads(model)
    elif os.path.isfile(model) and is_image_name(model):
        raise OptionError(f"{model} is not a model; {FOR_IMAGES}")
    elif not timm.is_model(plain):
        raise unknown_model(model, timm.list_models())
    try:
        network = create_of_timm(model, pretrained=True, num_classes=0)
    except WeightsError:
        raise
    except Exception as error:  # no such weights or no Hub; in a folder, whatever it did not expect
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise WeightsError(f"{model}: {reason}") from error
    if ":" in model:  # timm keeps the tag and the licence of the weights from which these were trained
        network.pretrained_cfg = without_claims(network.pretrained_cfg)
    return network, None


def _with_size(config: dict[str, Any], size: int, model: Any) -> dict[str, Any]:
    """timm's data config for inputs of `size` pixels; 0 = as it is."""
    if not size or config["input_size"] == (3, size, size):
        return config
    if not 32 <= size <= LARGEST_SIDE:
        raise OptionError(f"size must be 32 to {LARGEST_SIDE} pixels, or 0 for the model's own, not {size}")
    if model.pretrained_cfg.get("fixed_input_size"):
        raise OptionError(f"size {size}: this model takes {config['input_size'][1]} pixels only")
    return {**config, "input_size": (3, size, size)}


def _file_hash(cfg: dict[str, Any]) -> str | None:
    """The sha256 of bundled weights, as in weights/index.json."""
    rows = rows_of(cfg.get("architecture") or "")
    return next((row.sha256 for row in rows if row.path and str(row.path) == cfg.get("file")), None)


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu()
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            tensor = tensor.dequantize() if tensor.is_quantized else tensor
            digest.update(tensor.to_dense().contiguous().numpy().tobytes())
        elif isinstance(value, (tuple, list)):  # packed weights of a quantised layer
            for number, item in enumerate(value):
                add(f"{name}.{number}", item)
        elif isinstance(value, dict):
            for key, item in value.items():
                add(f"{name}.{key}", item)
        elif value is None or isinstance(value, (str, bytes, bool, int, float, torch.dtype, torch.device)):
            digest.update(f"{name} {value!r}".encode())
        else:
            raise OptionError(
                f"{type(model).__name__} cannot be embedded with: {name} of its state_dict is an object of "
                f"class {type(value).__name__}, and only tensors and plain values identify weights"
            )

    for name, value in sorted(model.state_dict().items()):
        add(name, value)
    return digest.hexdigest()
