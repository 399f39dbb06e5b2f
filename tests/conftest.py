"""Common ground of the tests: no network, and the reference values of the original implementation."""

import json
import os
import signal
import socket
import tarfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.fill import fill
from safetensors.torch import load_file

FACES = sorted((Path(__file__).resolve().parents[1] / "examples/faces").glob("*.jpg"))
REFERENCE = Path(__file__).parent / "reference"
SHARED = Path(__file__).resolve().parents[2] / "shared"
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Whatever the machine allows, a test talks to the loopback only."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise OSError(f"a test tried to reach {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def shared():
    """Folder of data beside the checkout."""
    if not (SHARED / "README.md").is_file():
        pytest.skip("needs the folder of data beside the checkout (../shared)")
    return SHARED


@pytest.fixture(scope="session")
def reference():
    """reference("losses") -> values of the original implementation, by name."""
    return lambda name: load_file(REFERENCE / f"{name}.safetensors")


@pytest.fixture(scope="session")
def original_state():
    """A training checkpoint as the original writes it, with the parameters of the reference values."""
    layout = json.loads((REFERENCE / "layout.json").read_text())
    return {f"module.{name}": torch.from_numpy(fill(name, shape)) for name, shape in layout.items()}


@pytest.fixture(scope="session")
def detector(shared):
    pytest.importorskip("cv2", reason="needs OpenCV (extra align)")
    return shared / "models/face_detection_yunet_2023mar.onnx"


@pytest.fixture(scope="session")
def photographs(shared, tmp_path_factory):
    """The folder of 90 photographs of people; none of them is part of the project."""
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(shared / "data/real/photos.tar") as tar:
        tar.extractall(folder, filter="data")
    return folder / "photos"


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


def put_face(path, number=0):
    """Write one of the sample faces to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FACES[number % len(FACES)].read_bytes())
    return path


def read_layout(task, path, layout="auto"):
    """The manifest of a data set, once its items are known to be its images, in order."""
    from facepcl.images.decode import decode
    from facepcl.probes.datasets import read_manifest

    manifest = read_manifest(task, path, layout)
    items = list(manifest.items())
    assert [item.path for item in items] == [image.name for image in manifest.images]
    assert all(decode(item.read()).width for item in items)
    return manifest


def relative_error(found, wanted):
    """Largest deviation, relative to max(1, largest value)."""
    found, wanted = torch.as_tensor(found).double(), torch.as_tensor(wanted).double()
    return ((found - wanted).abs().max() / max(1.0, wanted.abs().max())).item()


@pytest.fixture
def faces_folder(tmp_path):
    """Twelve smooth pictures of three people with a white disc, whose place is in the JSON of labels
    beside."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    for person in range(3):
        folder = tmp_path / "faces" / f"person{person}"
        folder.mkdir(parents=True)
        base = rng.uniform(0, 255, (5, 5, 3))
        for number in range(4):
            levels = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(levels).resize((72, 72), Image.Resampling.BICUBIC)
            yaw, unit = 10.0 * number - 15, number / 4
            x, y = 36 + yaw, 28 + 24 * unit
            ImageDraw.Draw(image).ellipse(
                (x - 9, y - 9, x + 9, y + 9), "white"
            )  # where it is tells the labels
            image.save(folder / f"{number}.jpg")
            labels = {
                "yaw": yaw,
                "pitch": 5.0,
                "roll": 0.0,
                "au": {"AU12": unit, "AU4": 0.2},
                "expression": ("happy", "sad")[number % 2],
                "landmarks": {
                    "right_eye": [26, 30],
                    "left_eye": [46, 30],
                    "nose": [36, 40],
                    "mouth_right": [28, 52],
                    "mouth_left": [44, 52],
                },
            }
            (folder / f"{number}.json").write_text(json.dumps(labels))
    return tmp_path / "faces"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on the loopback; this process is logged in there and has an empty cache."""
    from hub_server import Hub
    from huggingface_hub import constants

    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home/hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home/token"))
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield hub


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """encoders(name) -> a model with random weights and the folder that a run writes of it."""
    import facepcl
    from facepcl.models.io import save_encoder

    made = {}
    for name in ("pcl_facecycle", "pcl_resnet18"):
        torch.manual_seed(2)
        model = facepcl.create_model(name).eval()
        made[name] = model, save_encoder(model, tmp_path_factory.mktemp(name) / "encoder")
    return made.__getitem__
