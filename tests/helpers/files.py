"""Files of tests: sample faces, tars of given members, and a disk that is full."""

import io
import json
import os
import shutil
import signal
import tarfile
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FACES = sorted((ROOT / "examples/faces").glob("*.jpg"))


def put_face(path, number=0):
    """Write one of the sample faces to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FACES[number % len(FACES)], path)
    return path


def photo_of(count, first=0, side=160, size=(900, 600)):
    """A photo of `count` people: sample faces, `side` pixels wide, side by side on grey."""
    photo = Image.new("RGB", size, (90, 100, 110))
    across = size[0] // (side + 20)
    for place in range(count):
        with Image.open(FACES[(first + place) % len(FACES)]) as face:
            face = face.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        photo.paste(face, (20 + place % across * (side + 20), 20 + place // across * (side + 20)))
    return photo


UNREADABLE = Path("/proc/self/mem")  # Linux: a regular file of which every read fails by EIO


def break_drive(path):
    """Have each read of this file fail as on a drive that is gone (Linux); returns what mends it."""
    kept = path.with_name(f".{path.name}.kept")
    path.rename(kept)
    path.symlink_to(UNREADABLE)
    return lambda: kept.replace(path)


def jpeg(colour=(200, 30, 30), size=(60, 60)):
    """The bytes of a JPEG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def pack(path, members, mode="w"):
    """Write a tar of `members` by name: bytes as they are, None as a link, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
                tar.addfile(info)
                continue
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def changed_encoder(source, to, change=None):
    """A folder with the encoder of another, its tensors linked; `change` is merged into its config.json."""
    shutil.copytree(source, to, copy_function=os.link)
    config = json.loads((to / "config.json").read_text())
    for key, value in (change or {}).items():
        both = isinstance(config.get(key), dict) and isinstance(value, dict)
        config[key] = config[key] | value if both else value
    (to / "config.json").unlink()  # the other has the same file
    (to / "config.json").write_text(json.dumps(config))
    return to


@contextmanager
def no_room_beyond(size):
    """Writing more than `size` bytes to a file fails, as on a disk that is full."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
