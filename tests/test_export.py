"""An exported encoder gives the embedder's codes without facepcl, describes itself, or is not written."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.files import FACES, ROOT
from helpers.hub_clients import files_of
from torch import nn

import facepcl
from facepcl import cli
from facepcl.errors import ExportError, MissingExtra, OptionError
from facepcl.hub import export
from facepcl.models.io import save_encoder
from facepcl.models.onnx import open_graph, to_onnx

DOC = (ROOT / "docs/export.md").read_text("utf-8")
BRANCHES = ("shared", "face", "pose")
HEADS = ("au", "expression", "identity", "head_pose")
# Measured: up to 3e-6 under onnxruntime, whose sums run in another order than torch's, as they do in another
# layout; levels divided by 256 instead of 255, the smallest mistake tried, make 1e-3.
CLOSE = 1e-5


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="session")
def onnxruntime():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra facepcl[onnx]")
    return pytest.importorskip("onnxruntime", reason="needs the extra facepcl[onnx]")


@pytest.fixture(scope="session")
def typed(folder):
    """The commands of docs/export.md run: last lines by file name."""
    lines = {}
    for command in re.findall("^    facepcl (export .*)$", DOC, re.MULTILINE):
        words, said = shlex.split(command), StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
            patch.chdir(folder)
            assert cli.main(words) == 0
        lines[words[2]] = said.getvalue().splitlines()[-1]
    return lines


@pytest.fixture(scope="session")
def files(onnxruntime, folder, typed):
    """Both models, with and without preprocessing, in both forms."""
    export.run("pcl_resnet18", folder / "pcl_resnet18.onnx")
    export.run("pcl_resnet18", folder / "pcl_resnet18.pt2", with_preprocessing=True)
    return folder


def program_of(path):
    """The file as a function of images, and its description; numbers and lists out of JSON."""
    if path.suffix == ".pt2":
        inside = {export.META_FILE: ""}
        program = torch.export.load(str(path), extra_files=inside).module()
        return (lambda images: [c.numpy() for c in program(torch.from_numpy(images))]), json.loads(
            inside[export.META_FILE]
        )
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    assert [output.name for output in session.get_outputs()] == [*BRANCHES, *HEADS]

    def value(text):
        try:
            return json.loads(text)
        except ValueError:
            return text

    texts = session.get_modelmeta().custom_metadata_map
    return (lambda images: session.run(None, {"images": images})), {k: value(v) for k, v in texts.items()}


def taken(pixels, meta):
    """Pixels uint8 `[B, H, W, 3]` as the file's `input` says that it takes them."""
    if meta["with_preprocessing"]:
        return pixels
    mean, std = (np.array(meta[key], np.float32) for key in ("mean", "std"))
    return np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))


def off(found, wanted):
    """The largest difference, as a share of the largest number."""
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize(
    "name", ["pcl_facecycle.onnx", "pcl_facecycle.pt2", "pcl_resnet18.onnx", "pcl_resnet18.pt2"]
)
def test_a_file_gives_the_codes_of_the_embedder_for_any_number_of_faces(files, name):
    program, meta = program_of(files / name)
    embedder = facepcl.FaceEmbedder(Path(name).stem, "concat", dtype="float32")
    pixels = np.stack([embedder._open(0, face) for face in FACES[:7]])
    widths = list(meta["outputs"].values())[: len(BRANCHES)]
    wanted = np.split(embedder(FACES[:7]), np.cumsum(widths)[:-1], axis=1)
    assert list(meta["outputs"]) == [*BRANCHES, *HEADS]
    for count in (1, 3, 7):
        codes = program(taken(pixels[:count], meta))[: len(BRANCHES)]
        assert max(off(a, b[:count]) for a, b in zip(codes, wanted, strict=True)) < CLOSE


@pytest.mark.parametrize("name", ["pcl_facecycle.onnx", "pcl_resnet18.pt2"])
def test_a_file_says_of_faces_what_the_analyzer_says(files, name):
    program, meta = program_of(files / name)
    analyzer = facepcl.FaceAnalyzer(Path(name).stem, crops=True, dtype="float32")
    pixels = np.stack([analyzer.embedder._open(0, face) for face in FACES[:7]])
    outputs = dict(zip(meta["outputs"], program(taken(pixels, meta)), strict=True))
    records = analyzer(FACES[:7])
    assert meta["names"]["head_pose"] == ["yaw", "pitch", "roll"]
    assert meta["names"]["expression"] == list(records[0].expressions)
    assert meta["names"]["au"] == list(records[0].action_units)
    wanted = {
        "au": [list(record.action_units.values()) for record in records],
        "expression": [list(record.expressions.values()) for record in records],
        "identity": [record.identity for record in records],
        "head_pose": [(record.yaw, record.pitch, record.roll) for record in records],
    }
    assert (
        max(off(outputs[head], np.array(wanted[head])) for head in HEADS) < 10 * CLOSE
    )  # sums of 2,048 terms


@pytest.mark.parametrize("name", ["pcl_facecycle.onnx", "pcl_resnet18.pt2"])
def test_a_file_says_what_it_is(files, name):
    _, meta = program_of(files / name)
    row, side = facepcl.models.registry.rows_of(Path(name).stem)[0], meta["input_size"][1]
    assert (meta["model"], meta["tag"], meta["weights_sha256"]) == (row.model, row.tag, row.sha256)
    assert (meta["license"], meta["facepcl"]) == ("CC0-1.0", facepcl.__version__)
    assert (side, meta["mean"], meta["std"]) == (row.input_size, [0, 0, 0], [1, 1, 1])
    assert meta["input"] == f"images: uint8 [B, {side}, {side}, 3], RGB"
    assert meta["preprocessing"]["interpolation"] == "bicubic"
    assert len(set(meta["space"].values())) == 4
    assert list(meta["space"]) == [*BRANCHES, "identity"]
    assert meta["space"]["face"] == facepcl.FaceEmbedder(row.model, "face", dtype="float32").meta["space"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pcl_facecycle", "pcl_resnet18"])
@pytest.mark.parametrize("engine", ["ENGINE_NEW", "ENGINE_CLASSIC"])
def test_opencv_reads_a_file_with_either_of_its_engines(onnxruntime, folder, name, engine):
    """In a process of its own: the classic engine, OpenCV 4's only one, has crashed on two images."""
    if not hasattr(pytest.importorskip("cv2").dnn, engine):
        pytest.skip("this OpenCV has one engine")
    path = folder / f"plain_{name}.onnx"
    if not path.exists():
        export.run(name, path)
    session = onnxruntime.InferenceSession(str(path))
    outputs = [output.name for output in session.get_outputs()]
    images = np.random.default_rng(0).random((2, 3, *session.get_inputs()[0].shape[2:]), np.float32)
    np.save(folder / "images.npy", images)
    script = (
        "import cv2, numpy\n"
        f"network = cv2.dnn.readNetFromONNX({str(path)!r}, cv2.dnn.{engine})\n"
        f"network.setInput(numpy.load({str(folder / 'images.npy')!r}))\n"
        f"numpy.savez({str(folder / 'codes.npz')!r}, *network.forward({outputs}))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    found = np.load(folder / "codes.npz").values()
    for a, b in zip(found, session.run(None, {"images": images}), strict=True):
        assert off(a, b) < 10 * CLOSE  # heads are sums of 2,048 terms


def test_no_path_of_this_machine_is_in_a_file(files):
    """Exporters note the line of code behind every node, with its folder."""
    paths = (str(ROOT), str(Path(torch.__file__).parents[1]), str(Path(__file__).parent))
    onnx = (files / "pcl_facecycle.onnx").read_bytes()
    with zipfile.ZipFile(files / "pcl_facecycle.pt2") as archive:
        program = b"".join(archive.read(name) for name in archive.namelist())
    assert not [path for path in paths if path.encode() in onnx + program]
    assert b"site-packages" not in onnx + program


def test_the_last_line_says_what_was_written(onnxruntime, typed):
    assert re.fullmatch(
        r"wrote pcl_facecycle.onnx: images: uint8 \[B, 64, 64, 3\], RGB -> shared \[B, 2048\], "
        r"face \[B, 2048\], pose \[B, 2048\], au \[B, 22\], expression \[B, 7\], identity \[B, 256\], "
        r"head_pose \[B, 3\]; at most \de-0\d from torch's output",
        typed["pcl_facecycle.onnx"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["onnxruntime", "torch"])
def test_a_program_without_facepcl_runs_as_the_page_has_it(files, tmp_path, number):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("pcl_facecycle.onnx", "pcl_facecycle.pt2"):
        shutil.copy(files / name, tmp_path)
    code = re.findall("```python\n(.*?)```", DOC, re.DOTALL)[number]
    absent = ["facepcl", "timm", *(["torch"] if number == 0 else [])]
    script = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n{code}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if number == 1:
        assert done.stdout.split() == ["CC0-1.0"]
        return
    names = re.findall(r"examples/faces/[^\"]*", code)
    a, b = facepcl.FaceEmbedder(branch="face", dtype="float32", normalize=True)([ROOT / n for n in names])
    assert done.stdout.strip() == f"cosine {a @ b:.3f}"


@pytest.mark.parametrize(
    ("model", "branch"),
    [("pcl_facecycle", "concat"), pytest.param("pcl_resnet18", "shared", marks=pytest.mark.slow)],
)
def test_the_onnx_backend_gives_the_codes_of_torch_in_the_same_space(onnxruntime, model, branch):
    default = facepcl.FaceEmbedder(model, branch, dtype="float32")
    other = facepcl.FaceEmbedder(model, branch, backend="onnx")
    assert off(other(FACES), default(FACES)) < CLOSE
    assert off(other(FACES[:1]), default(FACES[:1])) < CLOSE
    assert (other.meta["backend"], other.meta["dtype"], other.meta["device"]) == ("onnx", "float32", "cpu")
    assert other.meta["space"] == default.meta["space"]


def test_onnxruntime_takes_the_threads_that_torch_has(files, monkeypatch, onnxruntime):
    asked, session = [], onnxruntime.InferenceSession
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *a, **k: asked.append(a[1]) or session(*a, **k)
    )
    open_graph(files / "pcl_facecycle.onnx")
    assert [options.intra_op_num_threads for options in asked] == [3]


def tiny(**options):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=0, **options).eval()


@pytest.mark.slow
def test_any_timm_model_is_exported_as_its_trunk_at_another_size_too(tmp_path):
    model = tiny()
    made = export.run(model, tmp_path / "trunk.pt2", with_preprocessing=True, size=96)
    program, meta = program_of(made.path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        wanted = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    assert off(program(pixels)[0], wanted.numpy()) < CLOSE
    assert (list(meta["outputs"]), meta["input_size"]) == (["shared"], [3, 96, 96])
    assert (meta["tag"], meta["license"]) == (None, None)  # of a module nobody knows what it was trained on


@pytest.mark.parametrize("about", [{}, {"license": "mit"}], ids=["unknown", "recorded"])
def test_a_folder_of_ones_own_has_its_own_licence_and_not_that_of_the_weights_it_began_with(tmp_path, about):
    model = facepcl.create_model("pcl_facecycle", pretrained=True)
    encoder = save_encoder(model, tmp_path / "encoder", about=about)
    meta = export.run(f"local-dir:{encoder}", tmp_path / "own.pt2").meta
    assert (meta["model"], meta["tag"], meta["license"]) == ("pcl_facecycle", None, about.get("license"))


def test_a_repository_that_timm_saved_does_not_claim_the_licence_of_the_weights_it_began_with(hub, tmp_path):
    model = timm.create_model("pcl_facecycle", pretrained=True)
    timm.models.save_for_hf(model, tmp_path / "tuned", safe_serialization=True)
    hub.put("org/faces", files_of(tmp_path / "tuned"))
    meta = export.run("hf-hub:org/faces", tmp_path / "own.pt2").meta
    assert (meta["model"], meta["tag"], meta["license"]) == ("pcl_facecycle", None, None)


class Noisy(nn.Module):
    """A trunk whose codes are others each time, so that no file can give them."""

    def __init__(self):
        super().__init__()
        self.trunk = tiny()
        self.pretrained_cfg = self.trunk.pretrained_cfg

    def forward_features(self, x):
        maps = self.trunk.forward_features(x)
        return maps + 0.01 * torch.rand_like(maps)

    def forward_head(self, x, pre_logits=False):
        return self.trunk.forward_head(x, pre_logits)


class OnItsValues(Noisy):
    """What no exporter can follow: the way that it takes depends on the numbers."""

    def forward_features(self, x):
        maps = self.trunk.forward_features(x)
        return maps if float(maps.sum()) > 0 else -maps


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Noisy, "was not written: its codes would differ from test_resnet's"),
        (OnItsValues, "cannot be"),
    ],
)
def test_other_codes_are_an_error_and_leave_what_was_there(tmp_path, model, said):
    out = tmp_path / "trunk.pt2"
    out.write_bytes(b"before")
    with pytest.raises(ExportError, match=said):
        export.run(model(), out)
    assert [path.name for path in tmp_path.iterdir()] == ["trunk.pt2"]
    assert out.read_bytes() == b"before"


def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path):
    with pytest.raises(OptionError, match=r"a.h5: the name of an exported encoder must end in .onnx or .pt2"):
        export.run("pcl_facecycle", tmp_path / "a.h5")
    with pytest.raises(
        OptionError,
        match=r"Unknown model 'pcl_face'\. Did you mean 'pcl_facecycle'\? Available: pcl_facecycle",
    ):
        export.run("pcl_face", tmp_path / "a.pt2")


def test_without_the_extra_the_pip_line_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"pip install 'facepcl\[onnx\]'"):
        export.run("pcl_facecycle", tmp_path / "a.onnx")
    with pytest.raises(MissingExtra, match=r"pip install 'facepcl\[onnx\]'"):
        facepcl.FaceEmbedder("pcl_facecycle", backend="onnx")


def test_weights_that_a_graph_cannot_hold_are_refused(onnxruntime):
    with pytest.raises(OptionError, match=r"the weights take 2.1 GB, and an ONNX graph holds at most 2.1 GB"):
        to_onnx(nn.Linear(2**15, 2**14, device="meta"), torch.zeros(2, 2**15))


def test_onnxruntime_is_for_the_cpu_and_float32(monkeypatch):
    with pytest.raises(OptionError, match="backend 'onnx' runs on the CPU, in float32 or int8"):
        facepcl.FaceEmbedder("pcl_facecycle", backend="onnx", dtype="bfloat16")
    monkeypatch.setattr("facepcl.embedding.encoder.find_device", torch.device)  # no other is there
    with pytest.raises(OptionError, match="backend 'onnx' runs on the CPU, in float32 or int8"):
        facepcl.FaceEmbedder("pcl_facecycle", backend="onnx", device="meta")
