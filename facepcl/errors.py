"""Exceptions raised by facepcl: one sentence that names the thing and what would be right.

FacepclError
├── OptionError      (ValueError)         an argument or option that cannot work
├── MissingPath      (FileNotFoundError)  a file or folder that is not there
├── MissingExtra     (ImportError)        an optional dependency that is not installed
├── ImageError       (ValueError)         an image that cannot be embedded, with the reason
├── TableError       (ValueError)         an embedding table that cannot be read, or two that do not compare
├── DataError        (ValueError)         training data that a method cannot use
├── ExportError      (RuntimeError)       a file that would not compute what the model computes
├── HubError         (RuntimeError)       the Hugging Face Hub refuses a push or cannot be reached
├── RemoteError      (RuntimeError)       a URL or a drive that keeps failing to be listed or read
├── ReaderError      (RuntimeError)       processes that read images and do not start
├── WeightsError     (RuntimeError)       weights that are missing, damaged or of another model
└── WriteError       (OSError)            a file that cannot be written: a disk that is full or read-only
"""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class FacepclError(Exception):
    """Base of all errors of the library: `except facepcl.FacepclError`."""

    def __str__(self) -> str:  # a KeyError or OSError base would add quotes or an errno
        return str(self.args[0]) if self.args else type(self).__name__


class OptionError(FacepclError, ValueError):
    """An argument or option that cannot work: `except ValueError`."""


class MissingPath(FacepclError, FileNotFoundError):
    """A file or folder that is not there: `except FileNotFoundError`."""


class MissingExtra(FacepclError, ImportError):
    """An optional dependency that is not installed: `except ImportError`."""


class ImageError(FacepclError, ValueError):
    """An image that cannot be embedded, with the reason: `except ValueError`."""


class TableError(FacepclError, ValueError):
    """An embedding table that cannot be read or compared: `except ValueError`."""


class DataError(FacepclError, ValueError):
    """Training data that a method cannot use: `except ValueError`."""


class RemoteError(FacepclError, RuntimeError):
    """A URL or a drive that keeps failing to be listed or read: `except RuntimeError`."""


class ReaderError(FacepclError, RuntimeError):
    """The processes that read images do not start: `except RuntimeError`."""


class ExportError(FacepclError, RuntimeError):
    """A file that cannot be made, or would not compute what the model computes: `except RuntimeError`."""


class HubError(FacepclError, RuntimeError):
    """The Hugging Face Hub refuses a push or cannot be reached: `except RuntimeError`."""


class WeightsError(FacepclError, RuntimeError):
    """Weights that are missing, damaged or of another model: `except RuntimeError`."""


class WriteError(FacepclError, OSError):
    """A file that cannot be written, as on a disk that is full or read-only: `except OSError`."""


def shortened(text: object, most: int = 200) -> str:
    """What a message repeats of its input, which may be megabytes long."""
    text = str(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def require(package: str, extra: str) -> ModuleType:
    """The imported optional `package`, or a MissingExtra that names the `extra` to install."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.split(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise MissingExtra(f"{name} is not installed; type: pip install 'facepcl[{extra}]'") from error
        raise MissingExtra(
            f"{name} is installed but does not load ({error}); try: pip install --upgrade 'facepcl[{extra}]'"
        ) from error


def near(name: object, known: Iterable[str]) -> str:
    """The one of the `known` names that `name` was probably meant to be, or nothing."""
    found = difflib.get_close_matches(str(name).lower(), list(known), 1)
    return found[0] if found else ""


def unknown(kind: str, name: object, known: Iterable[str], meant: str = "") -> str:
    """The message for a `name` that is none of the `known`: what was `meant`, then all of them."""
    known = list(known)
    meant = meant or near(name, known)
    hint = f" Did you mean {meant!r}?" if meant else ""
    return f"Unknown {kind} {name!r:.80}.{hint} Available: {', '.join(known)}"


def check_known(kind: str, name: object, known: Iterable[str]) -> None:
    """Raise OptionError unless `name` is one of the `known`."""
    if name not in (known := list(known)):
        raise OptionError(unknown(kind, name, known))


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its class if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_cause(error: BaseException) -> str:
    """What went wrong at first, in one line: exporters and compilers wrap it in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):  # "backend='inductor' raised:"
        return lines[1]
    return lines[0] if lines else type(error).__name__
