"""Common ground of the tests: no network, and the reference values of the original implementation."""

import gc
import json
import os
import socket
import tarfile
from functools import cache
from pathlib import Path

import pytest
import torch
from reference.fill import fill
from safetensors.torch import load_file

from facepcl.utils.memory import give_back_freed_memory

REFERENCE = Path(__file__).parent / "reference"
SHARED = Path(__file__).resolve().parents[2] / "shared"
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.hookimpl(trylast=True)  # once marks have been chosen
def pytest_collection_modifyitems(items):
    """Each process begins with its part of the slow tests, so that none is left alone with one at the end."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    ordered = []
    for process in range(processes):  # of the list, each takes such a piece first
        start, end = (len(slow) * edge // processes for edge in (process, process + 1))
        ordered += slow[start:end]
        rest = max(len(items) // processes - (end - start), 0)
        ordered += quick[:rest]
        del quick[:rest]
    items[:] = ordered + quick


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


@pytest.fixture(autouse=True, scope="session")
def _measured_once():
    """Each training run measures the speed of its processor for its log, which takes 0.3 s."""
    from facepcl.pretrain import loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "matmul_peak", cache(loop.matmul_peak))
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_traces():
    """TorchScript keeps the weights of every frozen trace, 13 MB an embedder, until the process ends."""
    yield
    gc.collect()
    torch._C._jit_clear_class_registry()
    torch.jit._state._clear_class_state()
    give_back_freed_memory()  # the command, run in this process, has glibc keep it


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
def detector():
    """The face detector's file: in the folder of data, or where an earlier use of it has left it."""
    pytest.importorskip("cv2", reason="needs OpenCV (extra align)")
    from facepcl.errors import WeightsError
    from facepcl.images.detector import find_detector

    path = SHARED / "models/face_detection_yunet_2023mar.onnx"
    try:
        return path if path.is_file() else find_detector()
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def photographs(shared, tmp_path_factory):
    """The folder of 90 photographs of people; none of them is part of the project."""
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(shared / "data/real/photos.tar") as tar:
        tar.extractall(folder, filter="data")
    return folder / "photos"


def relative_error(found, wanted):
    """Largest deviation, relative to max(1, largest value)."""
    found, wanted = torch.as_tensor(found).double(), torch.as_tensor(wanted).double()
    return ((found - wanted).abs().max() / max(1.0, wanted.abs().max())).item()


@pytest.fixture
def no_waits(monkeypatch):
    """A read that fails is repeated at once."""
    from facepcl.utils import storage

    monkeypatch.setattr(storage, "WAITS", (0.0, 0.0))


@pytest.fixture
def faces_folder(tmp_path):
    """Twelve pictures of three people with labels."""
    from helpers.training import label_faces

    return label_faces(tmp_path / "faces")


@pytest.fixture
def config(faces_folder, tmp_path):
    """Two steps of PCL on these pictures."""
    from helpers.training import small_config

    return small_config(faces_folder, tmp_path / "run")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """finished(method) -> the configuration of a run of two steps, which is at its end. Tests that share it
    write nothing to its folder."""
    from helpers.training import label_faces, small_config

    from facepcl.pretrain import run

    @cache
    def of(method):
        folder = tmp_path_factory.mktemp(method)
        config = small_config(label_faces(folder / "faces"), folder / "run", method=method)
        run(config)
        return config

    return of


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on the loopback; this process is logged in there and has an empty cache."""
    from helpers.hub_server import Hub
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
def model():
    """A FaceCycle with random weights, which tests leave as they are."""
    import facepcl

    torch.manual_seed(0)
    return facepcl.create_model("pcl_facecycle")


@pytest.fixture(scope="session")
def attribute_weights(tmp_path_factory):
    """Weights with heads for identity, pose, expression and action units, all of them random, as
    `facepcl pretrain --method labels` leaves them."""
    import facepcl
    from facepcl.models.heads import Heads, HeadSpec
    from facepcl.models.io import save_encoder

    torch.manual_seed(0)
    specs = {
        "identity": HeadSpec("shared", 4, "unit", 16),
        "pose": HeadSpec("pose", 1, "none", ("yaw", "pitch", "roll")),
        "expression": HeadSpec("face", 1, "softmax", ("angry", "happy", "sad")),
        "au": HeadSpec("face", 1, "clamp", ("AU1", "AU12", "AU26")),
    }
    heads = Heads(specs, {name: 128 * spec.side**2 for name, spec in specs.items()})
    torch.nn.init.constant_(heads.get_submodule("au").bias, 0.4)  # most units are seen
    model = facepcl.create_model("pcl_facecycle", pretrained=True)
    return f"local-dir:{save_encoder(model, tmp_path_factory.mktemp('heads') / 'encoder', heads=heads)}"


@pytest.fixture(scope="module")
def small_parts():
    """Jobs in parts and shards of 16 images, so that a small folder has many. The jobs of a test file share
    their embedders, which are made in more time than such a job takes."""
    from facepcl.alignment.align_photos import CropWriter
    from facepcl.embedding import job
    from facepcl.embedding.writers import TableWriter
    from facepcl.jobs import state

    with pytest.MonkeyPatch.context() as patch:
        for writer in (TableWriter, CropWriter):  # FolderWriter is a TableWriter
            patch.setattr(writer, "part_images", 16)
        patch.setattr(state, "FILES_PER_SHARD", 16)
        patch.setattr(job, "FaceEmbedder", cache(job.FaceEmbedder))
        yield


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
