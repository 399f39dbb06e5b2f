"""Folders of weights: those of `local-dir:` names, and those of `hf-hub:` names once they are fetched."""

import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

import timm

from facepcl.errors import MissingPath, OptionError, WeightsError
from facepcl.models.io import BRANCHES_FILE, CONFIG_FILE, DECODER_FILE, HEADS_FILE, WEIGHTS_FILE, read_config
from facepcl.models.model_args import check_stock
from facepcl.models.registry import MODELS
from facepcl.utils.files import FULL, sha256_file, unwritable_hub_cache
from facepcl.utils.progress import hub_progress_bars

# What is fetched of a repository; whatever else lies there is not needed.
LOADED = (WEIGHTS_FILE, BRANCHES_FILE, DECODER_FILE, HEADS_FILE)


class OfTimm(WeightsError):
    """A folder or repository that holds another of timm's models."""


def find_folder(name: str, cache_dir: str | Path | None = None, progress: bool = False) -> Path | None:
    """The folder of a `local-dir:` or, after a download, of an `hf-hub:` name; None for a plain name.

    Raises MissingPath for a folder that is not there, OptionError for a name that cannot be one, WeightsError
    for a repository that cannot be fetched or whose files are not what it says they are.
    """
    if not isinstance(name, str):
        raise OptionError(
            f"a model is a name, such as 'pcl_facecycle' or 'local-dir:FOLDER', not a {type(name).__name__}"
        )
    scheme, _, rest = name.partition(":")
    if scheme == "hf_hub":  # as timm takes it too
        scheme, name = "hf-hub", f"hf-hub:{rest}"
    if scheme == "local-dir":
        rest = os.path.expanduser(rest)
        if not Path(rest).is_dir():
            raise MissingPath(f"{rest}: there is no such folder")
        if not (Path(rest) / WEIGHTS_FILE).is_file() and (Path(rest) / "encoder" / WEIGHTS_FILE).is_file():
            raise OptionError(f"{rest} is the folder of a run; its weights are in {Path(rest) / 'encoder'}")
        if not (Path(rest) / WEIGHTS_FILE).is_file() and (Path(rest) / "pytorch_model.bin").is_file():
            raise WeightsError(
                f"{rest} holds a pickle, which is not read, and no {WEIGHTS_FILE}; save the model by timm's "
                "save_for_hf(..., safe_serialization=True)"
            )
        return Path(rest)
    return _fetch(name, cache_dir, progress) if scheme == "hf-hub" else None


def architecture_of(config: dict[str, Any], where: str | Path, branched: bool = False) -> str:
    """Which of our models, or of timm's with branches, a `config.json` describes; WeightsError if it is
    another, OfTimm if timm has it. `branched`: the weights are known to have branches."""
    architecture = config.get("facepcl", {}).get("architecture", config.get("architecture", ""))
    known = isinstance(architecture, str) and timm.is_model(architecture)
    if known and architecture in MODELS:
        return architecture
    if known:
        check_stock(where, config)  # timm makes the network next
        named = config.get("facepcl", {}).get("branches", "")
        if branched or named in (BRANCHES_FILE, None):  # None: trained without
            return architecture
    hint = "; use timm.create_model" if known else ""
    raise (OfTimm if known else WeightsError)(
        f"{where} holds {architecture!r}, which is not one of facepcl's{hint}"
    )


def _fetch(name: str, cache_dir: str | Path | None, progress: bool) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix("hf-hub:").partition("@")
    if repository.count("/") != 1:
        raise OptionError(f"{name}: expected hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION")
    download = partial(snapshot_download, repository, cache_dir=cache_dir)
    try:
        with hub_progress_bars(progress):
            # The config first: a model that is not ours may have many gigabytes. The second call names the
            # commit that the first one found, so that both see the same files.
            folder = Path(download(revision=revision or None, allow_patterns=[CONFIG_FILE]))
            if (folder / CONFIG_FILE).is_file():
                architecture_of(read_config(folder), name)
            download(revision=folder.name, allow_patterns=list(LOADED))
    except WeightsError:
        raise
    except Exception as error:  # its own, its HTTP library's and the system's, by version
        why = reason(error, repository, revision)
        raise WeightsError(f"{name} could not be downloaded: {why}") from error
    if not (folder / WEIGHTS_FILE).is_file():
        raise WeightsError(
            f"{name} holds no {WEIGHTS_FILE}; a pickle such as pytorch_model.bin is not read: download it "
            "and type facepcl convert"
        )
    for file in (*LOADED, CONFIG_FILE):
        _check_against_cache(folder / file, name)
    return folder


def _check_against_cache(path: Path, name: str) -> None:
    """Compare a fetched file with the sha256 by which the cache calls it; drop it if they differ.

    The cache of huggingface_hub links a large file to `blobs/SHA256`, as the server announced it, and never
    looks at the content again.
    """
    if not path.is_symlink():  # a system without links; safetensors still notices a file that is cut off
        return
    blob = path.parent / os.readlink(path)
    if len(blob.name) == 64 and (digest := sha256_file(path)) != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise WeightsError(
            f"{name}: {path.name} is damaged, sha256 {digest[:12]} instead of {blob.name[:12]}; it was "
            "removed from the cache, so try again"
        )


def reason(error: BaseException, repository: str, revision: str = "") -> str:
    """Why a call to the Hub failed, in a few words for whoever typed the command."""
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", None)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return FULL
    if unwritable := unwritable_hub_cache(error):
        return unwritable
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated: ask for access at {endpoint}/{repository}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{endpoint} has no {repository}, or your token may not see it"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision}"
    if status == 401:
        return "the token is not valid; type hf auth login"
    if status == 403:
        return f"the token has no right to do this on {repository}"
    if status == 412:
        return f"somebody else changed {repository} meanwhile; look at it and try again"
    if "X-Repo-Commit" in str(error):
        return f"{endpoint} does not answer as a Hub does; check HF_ENDPOINT"
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return f"it is not in the cache, and {reason(error.__cause__, repository, revision)}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, ConnectionError) or "Connect" in type(error).__name__:
        return f"{endpoint} cannot be reached"
    if status is not None:
        return f"{endpoint} answered {status}"
    if "Protocol" in type(error).__name__ or "Consistency check failed" in str(error):
        return "the connection broke off; try again"
    lines = str(error).split("\n")
    return next((line for line in lines if line.strip()), type(error).__name__)
