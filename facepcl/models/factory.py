"""`facepcl.create_model`: timm's own, with the branches on, paths as weights and folders read whole."""

import logging
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import timm
from torch import nn

from facepcl.errors import OptionError, WeightsError, first_cause, near, unknown
from facepcl.models.branched import BranchedModel, create_branched
from facepcl.models.branches import is_branch
from facepcl.models.decoder import Decoder
from facepcl.models.heads import Heads, HeadSpec, read_specs
from facepcl.models.hub_folder import architecture_of, find_folder
from facepcl.models.io import (
    BRANCHES_FILE,
    DECODER_FILE,
    DESCRIPTIVE,
    HEADS_FILE,
    WEIGHTS_FILE,
    cfg_of,
    claims_of,
    load_tensors,
    read_config,
    read_shapes,
    without_claims,
)
from facepcl.models.model_args import SOURCES, check_model_args, make_described
from facepcl.models.registry import MODELS, WEIGHTS, Row, rows_of
from facepcl.models.weights import THREE_WAYS, check_sha256, warn_random_classifier, warn_untrained

_logger = logging.getLogger("facepcl")


def create_model(
    name: str,
    pretrained: bool | str | Path | None = None,
    *,
    branches: bool | None = None,
    **timm_options: Any,
) -> nn.Module:
    """Create a model as timm's `create_model` does, with the face and pose branches on.

    Args:
        name: `pcl_x`, `pcl_x.TAG`, `local-dir:FOLDER` or `hf-hub:ORG/NAME[@REVISION]`; or any model of timm
            that has a feature map: its branches are random.
        pretrained: True, False or the path of a `.safetensors` file. None is False for a plain name and True
            for a folder or repository.
        branches: None leaves the branches off only for a folder or repository without any, such as a model
            fine-tuned by timm.
        **timm_options: timm's own: `num_classes`, `in_chans`, `features_only`, ...

    Returns:
        The model. Its `forward_branches` and `forward_codes` give the shared, face and pose map or code.

    Raises:
        OptionError: There is no model of this name.
        MissingPath: A file or folder does not exist.
        WeightsError: Weights are missing, damaged or of another model.

    Example:
        >>> model = facepcl.create_model("pcl_facecycle", pretrained=True).eval()
        >>> shared, face, pose = model.forward_codes(torch.rand(1, 3, 64, 64))  # [1, 2048] each
    """
    if not isinstance(pretrained, (int, str, Path, NoneType)):
        raise OptionError(
            f"pretrained is True, False or the path of a .safetensors file, not {type(pretrained).__name__}; "
            "tensors are for model.load_state_dict"
        )
    if isinstance(pretrained, int):  # 0 and 1, which timm takes as well
        pretrained = bool(pretrained)
    if timm_options.get("features_only", False):
        branches = False
    folder = find_folder(name, timm_options.get("cache_dir"))
    if folder is not None:
        if isinstance(pretrained, (str, Path)):
            raise OptionError(
                f"{name} comes with its own weights; pretrained={str(pretrained)!r} is for a plain name"
            )
        model = _create_from_folder(folder, pretrained is not False, branches, timm_options)
        if pretrained is False:
            warn_untrained(name)
        return model
    if is_timms(name):
        return _create_of_timm(name, pretrained, branches, timm_options)
    _check_name(name)
    if pretrained is True and (row := _row(name)) and not row.path:
        folder = fetch_row(row, timm_options.get("cache_dir"))
        return _create_from_folder(folder, True, branches is not False, timm_options)
    if isinstance(pretrained, (str, Path)):
        overlay = timm_options.pop("pretrained_cfg_overlay", None) or {}
        timm_options["pretrained_cfg_overlay"] = _overlay(Path(pretrained)) | overlay
    return timm.create_model(
        name, pretrained=bool(pretrained), branches=branches is not False, **timm_options
    )


def is_timms(name: str) -> bool:
    """Whether `name` is that of a model that timm brings and facepcl does not."""
    architecture = name.partition(".")[0]
    return timm.is_model(architecture) and architecture not in MODELS


def _create_of_timm(
    name: str, pretrained: bool | str | Path | None, branches: bool | None, options: dict[str, Any]
) -> nn.Module:
    """One of timm's models, with branches unless there are to be none."""
    if isinstance(pretrained, (str, Path)):
        raise OptionError(f"pretrained={str(pretrained)!r}: {name} takes True or False; a folder is a name")
    if branches is False:
        return timm.create_model(name, pretrained=bool(pretrained), **options)
    model = create_branched(name, bool(pretrained), **options)
    if pretrained:
        _logger.warning("%s: the backbone has timm's weights; the branches are random", name)
    return model


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if architecture not in MODELS:
        raise unknown_model(name)
    tagged = [n for n in timm.list_models(architecture, include_tags=True) if "." in n]
    if tag and name not in tagged:
        raise OptionError(unknown(f"tag of {architecture}", tag, [n.partition(".")[2] for n in tagged]))


def unknown_model(name: str, others: Iterable[str] = ()) -> OptionError:
    """The error for a `name` that is no model: what was meant, of ours, of `others`, or by its form."""
    repository = re.sub(r"^https?://(www\.)?(huggingface\.co|hf\.co)/", "", name.rstrip("/"))
    repository = repository.replace("/tree/", "@")
    if not others and timm.is_model(name.partition(".")[0]):
        return OptionError(
            f"{name!r} is not one of facepcl's models, {', '.join(MODELS)}; use timm.create_model"
        )
    if Path(name).is_dir():
        meant = f"local-dir:{name}"
    elif Path(name).suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt"):
        return OptionError(
            f"{name!r} is a file of weights, not a model; type create_model(MODEL, pretrained={name!r}), or "
            "facepcl convert if it is not a .safetensors file"
        )
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(@\w+)?", repository):
        meant = f"hf-hub:{repository}"
    elif ":" in name and (scheme := near(name.partition(":")[0], ("hf-hub", "local-dir"))):
        meant = f"{scheme}:{name.partition(':')[2]}"
    else:
        meant = near(name, MODELS) or near(name, others)
    return OptionError(unknown("model", name, MODELS, meant))


def _row(name: str) -> Row | None:
    """The row of the weights that a plain `name` means: the first that there are."""
    architecture, _, tag = name.partition(".")
    rows = [row for row in rows_of(architecture) if tag in ("", row.tag) and (row.path or row.hf_hub_id)]
    return rows[0] if rows else None


def fetch_row(row: Row, cache_dir: str | Path | None = None, progress: bool = False) -> Path:
    """The folder of a row's weights, fetched from the Hub; WeightsError unless the index knows them."""
    folder = find_folder(f"hf-hub:{row.hf_hub_id}", cache_dir, progress)
    assert folder is not None
    for name, wanted in row.hub_sha256.items():
        if (folder / name).is_file() and (digest := check_sha256(folder / name)) != wanted:
            raise WeightsError(
                f"{row.hf_hub_id}: {name} is not the file that this version expects: sha256 {digest[:12]}, "
                f"not {wanted[:12]}"
            )
    return folder


def download(name: str, cache_dir: str | Path | None = None, progress: bool = False) -> Path:
    """Download weights in advance, so that they load without a network.

    Args:
        name: `hf-hub:ORG/NAME[@REVISION]`, or `pcl_x[.TAG]`, whose bundled weights need no download.
        cache_dir: Where to keep them; None is huggingface_hub's cache.
        progress: Show a progress bar.

    Returns:
        The folder they are in.

    Raises:
        OptionError: There is no model of this name.
        WeightsError: There is nothing to download, or it fails.
    """
    folder, row = _whereabouts(name, True, cache_dir, progress)
    if folder is not None:
        return folder
    if row and row.path:
        return WEIGHTS
    _check_name(name)
    raise WeightsError(f"there are no weights for {name}; {THREE_WAYS}")


def _overlay(path: Path) -> dict[str, Any]:
    """timm's description of a weights file of the user's: where it is and how many classes its head has.
    Tag, licence and description of the released weights are not those of the file."""
    if path.suffix != ".safetensors":
        raise OptionError(f"{path}: weights are read from .safetensors files only, never from a pickle")
    rows = sum(read_shapes(path).get("fc.weight", [])[:1])
    unknown = dict.fromkeys((*DESCRIPTIVE, "hf_hub_id", "url"))
    return {**unknown, "file": str(path), "num_classes": rows}


def _create_from_folder(
    folder: Path, pretrained: bool, branches: bool | None, options: dict[str, Any]
) -> nn.Module:
    config = read_config(folder)
    own = config.get("facepcl", {})
    shapes = read_shapes(folder / WEIGHTS_FILE)
    whole = _is_whole(shapes)
    architecture = architecture_of(config, folder, whole)
    cfg = _cfg_of_folder(config, architecture)
    arguments = config.get("model_args", {})
    if is_timms(architecture):
        if pretrained:
            warn_random_classifier(folder, cfg.get("num_classes"), options.get("num_classes"))
        if whole or branches or (branches is None and own.get("branches")):
            return _load_branched(folder, cfg, arguments, options, pretrained, branches is not False)
        return _load_trunk(folder, config, options, pretrained)
    if branches is None:
        branches = own.get("branches", arguments.get("branches"))
        if "transformers_version" in config and not (folder / BRANCHES_FILE).is_file() and own:
            branches = None  # transformers saves the trunk, and the whole of our config.json
    if branches and (named := own.get("branches")):
        if named != BRANCHES_FILE:
            raise WeightsError(f"{folder}: its config.json names {named!r:.40}, not {BRANCHES_FILE}")
        shapes |= read_shapes(folder / BRANCHES_FILE)
    if branches is None:  # a folder that timm's own save_for_hf wrote does not say
        branches = any(map(is_branch, shapes))
    described = {**arguments, "branches": bool(branches) and any(map(is_branch, shapes))}
    check_model_args(folder, architecture, cfg, described, shapes)
    if pretrained:
        cfg["file"] = str(folder)  # in messages; timm takes the tensors
        # Both files of a ResNet are merged, so that the check of the whole sees trunk and branches at once.
        cfg["state_dict"] = load_tensors(folder / WEIGHTS_FILE)
        if branches and own.get("branches"):
            cfg["state_dict"] |= load_tensors(folder / BRANCHES_FILE)
    arguments = {**arguments, "branches": bool(branches)}
    if options:  # of the caller, who is told what timm says of them
        model: Any = timm.create_model(
            architecture, pretrained=pretrained, pretrained_cfg=cfg, **{**arguments, **options}
        )
    else:
        model = make_described(folder, architecture, cfg, arguments, pretrained=pretrained)
    for key in ("file", "state_dict"):  # timm keeps a second copy of the weights there
        model.pretrained_cfg.pop(key, None)
    return model


def _load_trunk(
    folder: Path, config: dict[str, Any], options: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    """The model of timm in a folder, without branches."""
    model = create_of_timm(f"local-dir:{folder}", pretrained, **options)
    model.pretrained_cfg = without_claims(model.pretrained_cfg) | claims_of(config)
    return model


def create_of_timm(name: str, pretrained: bool, num_classes: int | None = None, **options: Any) -> Any:
    """timm's `create_model`, which accepts weights with missing tensors when it is given another number of
    classes than theirs. Raises WeightsError for such weights."""
    try:
        model = timm.create_model(name, pretrained=pretrained, **options)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        why = first_cause(error)
        raise WeightsError(f"{name} does not have the weights of its network ({why:.200})") from error
    return with_classes(model, num_classes)


def _load_branched(
    folder: Path,
    cfg: Mapping[str, Any],
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    pretrained: bool,
    branches: bool,
) -> nn.Module:
    """The model of timm in a folder, with its `branches` or without; the caller's `options` replace the
    `arguments` of config.json. Raises WeightsError for weights of another network than it describes."""
    tensors = load_tensors(folder / WEIGHTS_FILE)
    if not _is_whole(tensors):
        tensors = {f"trunk.{key}": value for key, value in tensors.items()}
        tensors |= load_tensors(folder / BRANCHES_FILE)
    make = partial(make_described, folder, cfg["architecture"])
    network = BranchedModel(make(cfg, arguments, device="meta")).state_dict()  # whatever its size, no memory
    for name in sorted({*tensors, *network}):
        found, wanted = (list(some[name].shape) if name in some else "missing" for some in (tensors, network))
        if found != wanted:
            raise WeightsError(
                f"{folder}: {name} is {found} in its weights and {wanted} in the network that config.json "
                "describes"
            )
    of_trunk = {key.removeprefix("trunk."): tensors.pop(key) for key in [*tensors] if not is_branch(key)}
    options = dict(options)
    classes = options.pop("num_classes", None)
    trunk = make({**cfg, "state_dict": of_trunk}, {**arguments, **options}, pretrained=pretrained)
    trunk.pretrained_cfg.pop("state_dict")  # timm keeps a second copy of the weights there
    trunk = with_classes(trunk, classes)
    if not branches:
        return trunk
    model = BranchedModel(trunk)
    if pretrained:
        model.load_state_dict(tensors, strict=False)  # of the branches; none is missing
    return model


def with_classes(model: Any, classes: int | None) -> Any:
    """A model of timm with a classifier for so many `classes`; None: its own. One without any stays so."""
    if classes is not None and getattr(model, "num_classes", classes) != classes:
        model.reset_classifier(classes)
    return model


def _is_whole(names: Iterable[str]) -> bool:
    """Whether tensors with these `names` are a trunk and its branches in one file, as timm's save_for_hf
    writes them."""
    return any(name.startswith("trunk.") for name in names)


def _cfg_of_folder(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """timm's description of the weights of a folder, which are where the folder is."""
    cfg = {key: value for key, value in cfg_of(config).items() if key not in SOURCES}
    cfg["architecture"] = architecture
    if "num_classes" in config:  # transformers writes it here alone
        cfg["num_classes"] = config["num_classes"]
    return cfg


def create_decoder(name: str, pretrained: bool = True) -> nn.Module:
    """Create the decoder that belongs to weights: code [B, 2048] of unit length -> image [B, 3, 64, 64].

    Args:
        name: Weights as for `create_model`.
        pretrained: False gives a random decoder.

    Raises:
        WeightsError: These weights have no decoder, or it is damaged.
    """
    decoder = Decoder()
    path = find_decoder(name, pretrained)
    if not pretrained:
        return decoder
    if path is None:
        raise WeightsError(
            f"{name} comes without a decoder; a run of facepcl pretrain writes one into encoder/"
        )
    tensors = load_tensors(path)
    try:
        decoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path} is not the decoder of a run of facepcl pretrain") from error
    return decoder.eval()


def find_decoder(name: str, fetch: bool = True) -> Path | None:
    """The file of the decoder that belongs to the weights `name`, if there is one; `fetch`ed from the Hub if
    the weights are there."""
    folder, _ = _whereabouts(name, fetch)
    path = folder and folder / DECODER_FILE
    return path if path and path.is_file() else None


def _whereabouts(
    name: str, fetch: bool = True, cache_dir: str | Path | None = None, progress: bool = False
) -> tuple[Path | None, Row | None]:
    """The folder of the weights `name`, `fetch`ed from the Hub if they are there, or the row of bundled ones;
    neither for a file and for timm's own models, which have no decoder and no heads."""
    if (folder := find_folder(name, cache_dir, progress)) is not None:
        return folder, None
    if name.endswith(".safetensors") or is_timms(name):
        return None, None
    _check_name(name)
    row = _row(name)
    if fetch and row and not row.path:
        return fetch_row(row, cache_dir, progress), None
    return None, row


def create_heads(name: str) -> Heads:
    """Create the heads that read identity, head pose, expression and action units from an encoder's maps.

    Args:
        name: Weights as for `create_model`: `pcl_x[.TAG]`, `local-dir:FOLDER` or
            `hf-hub:ORG/NAME[@REVISION]`.

    Returns:
        A `torch.nn.Module` in evaluation mode; call it with the output of `forward_branches` of the same
        weights. `heads.specs[NAME].names` has the names of a head's outputs. The format is in docs/hub.md.

    Raises:
        OptionError: There is no model of this name.
        WeightsError: The weights have no heads, or their heads are damaged.

    Example:
        >>> model = facepcl.create_model("local-dir:runs/first/encoder", pretrained=True).eval()
        >>> heads = facepcl.create_heads("local-dir:runs/first/encoder")
        >>> yaw, pitch, roll = heads(model.forward_branches(images))["pose"].T
    """
    if heads := find_heads(name):
        return heads
    raise WeightsError(
        f"{name} comes without heads; facepcl pretrain FACES --preset small --method labels --model MODEL "
        f"--init {name} --freeze --out RUN trains them on labelled faces"
    )


def find_heads(name: str) -> Heads | None:
    """As `create_heads`, but None for weights without heads."""
    folder, row = _whereabouts(name)
    described: Any = None
    if folder is not None:
        described, path = read_config(folder).get("facepcl", {}).get("heads"), folder / HEADS_FILE
    elif row is not None:
        described, path = row.heads, WEIGHTS / f"{row.model}.{row.tag}.{HEADS_FILE}"
    if not described or not path.is_file():
        return None
    if not isinstance(described, dict):
        raise WeightsError(f"{name}: its heads are {described!r:.40}, not an object")
    return load_heads(path, read_specs(described, name))


def load_heads(path: Path, specs: Mapping[str, HeadSpec]) -> Heads:
    """The heads of a file. Raises WeightsError if it holds others than `specs`."""
    tensors = load_tensors(path)
    try:
        shapes = {name: tensors[f"{name}.weight"].shape for name in specs}
        for name, spec in specs.items():
            if len(shapes[name]) != 2 or shapes[name][0] != spec.width:  # else a layer of any size is made
                raise KeyError(name)
        heads = Heads(specs, {name: shape[1] for name, shape in shapes.items()})
        heads.load_state_dict(tensors)
    except (KeyError, IndexError, RuntimeError) as error:  # also a name that a module cannot have
        raise WeightsError(f"{path} does not hold the heads {', '.join(specs)} of its config.json") from error
    return heads.eval()
