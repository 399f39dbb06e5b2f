"""The file of the face detector: a path that is given, or fetched once from the Hub, its sha256 checked."""

import os
from pathlib import Path

from facepcl.errors import MissingPath, WeightsError
from facepcl.utils.files import sha256_file

REPOSITORY, FILE = "opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"


def find_detector(path: str | Path | None = None) -> Path:
    """YuNet's ONNX file: the one at `path`, or that of the Hub, from its cache if it is there.

    Raises MissingPath if there is no file at `path`, WeightsError if it cannot be fetched or is another one.
    """
    if path is not None:
        if not Path(path).is_file():
            raise MissingPath(f"{path}: there is no such file; the face detector is {_where()}")
        return Path(path)
    path = _fetch()
    if (digest := sha256_file(path)) != SHA256:
        raise WeightsError(
            f"{path} has the sha256 {digest[:12]}, not {SHA256[:12]} of the face detector that "
            "facepcl knows; delete it to fetch it again, or give a file of your own with --detector PATH "
            "(detector=PATH)"
        )
    return path


def _fetch() -> Path:
    from huggingface_hub import hf_hub_download, utils

    silent = not utils.are_progress_bars_disabled()  # 230 kB need no bar
    if silent:
        utils.disable_progress_bars()
    try:
        return Path(hf_hub_download(REPOSITORY, FILE))
    except Exception as error:  # offline, no such repository, no room: the Hub's client has many of them
        reason = " ".join(str(error).split()).split(". ")[0][:200] or type(error).__name__
        raise WeightsError(
            f"the face detector could not be fetched from the Hub ({reason}); download {_where()}, and "
            "give its path with --detector PATH (detector=PATH)"
        ) from error
    finally:
        if silent:
            utils.enable_progress_bars()


def _where() -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{FILE} of {endpoint}/{REPOSITORY}"
