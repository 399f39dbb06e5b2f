"""Files that are whole or not there: atomic writing and sha256."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` at the end, and vanishes on any error."""
    with _temporary(Path(path)) as temporary:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)


@contextmanager
def atomic_first(path: str | Path) -> Iterator[Path]:
    """As `atomic`, but where another process was first, what it wrote stays."""
    with _temporary(Path(path)) as temporary:
        yield temporary
        _to_disk(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not os.path.exists(path):
                os.replace(temporary, path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    # by chance, not by process id: on a shared file system other machines have the same ids
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _to_disk(path: Path) -> None:
    """Wait until the bytes are on the disk: a name must not outlive a power cut without them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sha256_file(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
