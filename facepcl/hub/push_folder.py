"""`facepcl.hub.push`: a folder of weights becomes a repository on the Hugging Face Hub."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepcl.errors import FacepclError, HubError, MissingPath, OptionError, WeightsError
from facepcl.hub.card import CARD_FILE, Facts, card_of, check_card
from facepcl.models.factory import create_decoder, create_model, find_decoder, find_heads
from facepcl.models.hub_folder import LOADED, architecture_of, reason
from facepcl.models.io import (
    ABOUT,
    CONFIG_FILE,
    ORIGINAL_HEADS_FILE,
    claims_of,
    read_config,
    without_claims,
)
from facepcl.utils.files import as_path
from facepcl.utils.progress import hub_progress_bars

# pushed if they are in the folder, with config and card
FILES = (*LOADED, ORIGINAL_HEADS_FILE)


@dataclass(frozen=True)
class Pushed:
    """The pushed `files` with their sizes in bytes, and the `revision`, None for a dry run."""

    repository: str
    files: dict[str, int]
    revision: str | None
    changed: bool  # False: the repository had all this already, and nothing was committed


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    license: str | None = None,
    datasets: str | Sequence[str] = (),
    progress: bool = False,
) -> Pushed:
    """Publish a folder of weights as a model repository on the Hugging Face Hub, in one commit.

    Args:
        folder: What `facepcl pretrain` (`RUN/encoder`) or `convert` wrote. Its `README.md` is the model card;
            without one a card is written.
        repository: ORG/NAME.
        private: Make a new repository private.
        dry_run: Check folder and card, and send nothing.
        license: For the card that is written.
        datasets: Names on the Hub of what the weights were trained on, for the card that is written.
        progress: Show progress bars.

    Returns:
        The files with their sizes, the revision, and whether anything changed.

    Raises:
        MissingPath: There is no such folder.
        OptionError: An argument is wrong.
        WeightsError: The folder does not load.
        HubError: The Hub refuses or cannot be reached.
    """
    folder = as_path(folder, "folder")
    _check_name(repository)
    if not folder.is_dir():
        raise MissingPath(f"{folder}: there is no such folder")
    datasets = [datasets] if isinstance(datasets, str) else datasets
    contents = _contents(folder, repository, license, datasets)
    sizes = {name: len(c) if isinstance(c, bytes) else c.stat().st_size for name, c in contents.items()}
    if dry_run:
        return Pushed(repository, sizes, None, False)
    architecture = architecture_of(read_config(folder), folder)
    try:
        with hub_progress_bars(progress):
            before, revision = _commit(contents, repository, private, architecture)
    except FacepclError:
        raise
    except Exception as error:  # its own, its HTTP library's and the system's, by version
        raise HubError(f"{repository} was not pushed: {reason(error, repository)}") from error
    return Pushed(repository, sizes, revision, revision != before)


def _check_name(repository: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        reason = str(error).split("\n", 1)[0].rstrip(".")
        raise OptionError(f"{repository!r} is not a valid repository name: {reason}") from error
    if "/" not in repository:
        raise OptionError(f"{repository!r}: expected ORG/NAME, or USER/NAME for your own")


def _contents(
    folder: Path, repository: str, license: str | None, datasets: Sequence[str]
) -> dict[str, Path | bytes]:
    """The files of the repository: weights as they are, card and config as they are to be."""
    local = f"local-dir:{folder}"  # what does not load here is not published
    decoder = create_decoder(local) if find_decoder(local) else None
    for network in filter(None, (create_model(local), find_heads(local), decoder)):
        if bad := [key for key, tensor in network.state_dict().items() if not tensor.isfinite().all()]:
            raise WeightsError(f"{folder} contains numbers that are not finite: {bad[0]}")
    contents: dict[str, Path | bytes] = {name: folder / name for name in FILES if (folder / name).is_file()}
    contents[CONFIG_FILE] = _config_of(folder, license)
    name = f"hf-hub:{repository}"
    if (folder / CARD_FILE).is_file():
        if license or datasets:
            raise OptionError(
                f"{folder} has a {CARD_FILE}, which is pushed unchanged: name licence and data sets there, "
                "or delete it to have it written again"
            )
        card = (folder / CARD_FILE).read_text("utf-8")
        for local in set(re.findall(r"\"(local-dir:[^\"\n]+)\"", card)):  # a path may hold blanks
            card = card.replace(local, name)
        card = re.sub(r"local-dir:[^\s\"']+", name, card)
        check_card(card, str(folder))
    else:
        card = card_of(folder, name, Facts(datasets=tuple(datasets)), license)
    contents[CARD_FILE] = card.encode()
    return contents


def _config_of(folder: Path, license: str | None) -> bytes:
    """The config.json as it is to be: it says nothing of other weights, and has the `license`."""
    config = read_config(folder)
    about = claims_of(config) | ({"license": license} if license else {})
    config["pretrained_cfg"] = without_claims(config.get("pretrained_cfg", {})) | about
    own = {key: value for key, value in config.pop("facepcl", {}).items() if key != ABOUT}
    if own or about:
        config["facepcl"] = own | ({ABOUT: about} if about else {})
    return (json.dumps(config, indent=2) + "\n").encode()


def _commit(
    contents: dict[str, Path | bytes], repository: str, private: bool, architecture: str
) -> tuple[str, str]:
    """Commit what changed; the revisions before and after, equal if nothing did."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise HubError("there is no token: type hf auth login, or set HF_TOKEN to one with write access")
    api = HfApi(library_name="facepcl")
    api.create_repo(repository, private=private or None, exist_ok=True)
    info = api.model_info(repository)
    if private and not info.private:
        raise HubError(f"{info.id} already exists and is public; make it private in its settings first")
    files = {sibling.rfilename for sibling in info.siblings or ()}
    if files - {".gitattributes", CARD_FILE}:
        held = "no config.json"
        if CONFIG_FILE in files:
            config = read_config(Path(api.hf_hub_download(info.id, CONFIG_FILE, revision=info.sha)).parent)
            held = config.get("facepcl", {}).get("architecture", config.get("architecture", "another model"))
        if held != architecture:
            raise HubError(f"{info.id} already holds {held}, not {architecture}; choose another name")
    operations: list[Any] = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in contents.items()
    ]
    operations += [CommitOperationDelete(name) for name in FILES if name in files and name not in contents]
    # of two concurrent pushes the second fails: its parent is not the head any more
    message = f"{architecture} by facepcl"
    commit = api.create_commit(repository, operations, commit_message=message, parent_commit=info.sha)
    return str(info.sha), commit.oid
