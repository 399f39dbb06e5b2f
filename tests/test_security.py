"""What SECURITY.md promises: no pickle, no code of strangers, nothing that only one system has."""

import ast
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile

import pytest
import timm
import torch
import yaml
from helpers.files import FACES, ROOT, changed_encoder, pack, put_face
from timm.models import save_for_hf

import facepcl
from facepcl.alignment.face_table import LANDMARK_COLUMNS
from facepcl.errors import FacepclError, WeightsError
from facepcl.hub.torch_checkpoint import read_checkpoint
from facepcl.models.heads import Heads, HeadSpec
from facepcl.models.io import save_encoder, save_tensors
from facepcl.probes.datasets.verification import read_bin

SOURCES = [*sorted((ROOT / "facepcl").rglob("*.py")), ROOT / "hubconf.py"]

# What runs or could run code of a file, and where it is allowed, with the reason.
DANGEROUS = {
    "os.system", "os.popen", "marshal.loads", "marshal.load",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load", "shelve.open",
    "torch.load", "torch.jit.load", "torch.package.PackageImporter", "torch.hub.load",
    "torch.hub.load_state_dict_from_url", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load",
    "runpy.run_path", "importlib.util.spec_from_file_location", "importlib.machinery.SourceFileLoader",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}  # where they are called: `compile` is also an option
ALLOWED = {
    ("facepcl/hub/torch_checkpoint.py", "torch.load"): "weights_only, torch 2.6 and later",
    ("facepcl/probes/datasets/verification.py", "pickle.Unpickler"): "an unpickler that knows no global",
}
# What Windows or macOS does not have; allowed where a fallback is beside it.
POSIX_ONLY = {
    "os.fork", "os.forkpty", "os.killpg", "os.setsid", "os.getpgid", "os.mkfifo", "os.getuid", "os.geteuid",
    "os.sched_getaffinity", "os.sched_setaffinity", "os.getloadavg", "os.nice", "os.wait", "os.pipe2",
    "signal.SIGKILL", "signal.SIGALRM", "signal.alarm", "signal.SIGUSR1", "signal.SIGHUP", "signal.SIGXFSZ",
    "signal.pthread_sigmask", "signal.setitimer", "select.poll", "select.epoll", "os.O_DIRECT", "os.fchmod",
}  # fmt: skip
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
FALLBACKS = {
    ("facepcl/utils/cpus.py", "os.sched_getaffinity"): "os.cpu_count()",
    ("facepcl/data/workers.py", "fcntl"): "pipes stay as narrow as they are",
    ("facepcl/utils/launch.py", "os.sched_getaffinity"): "asked only where cores can be chosen",
    ("facepcl/utils/launch.py", "os.sched_setaffinity"): "the system shares out the cores",
}


def dotted(node):
    """`a.b.c` of an expression, or None."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return inner and f"{inner}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def names_used(path):
    """Every dotted name in a file, with names that were imported written out."""
    tree = ast.parse(path.read_text("utf-8"))
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            full |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and (name := dotted(node)):
            first, _, rest = name.partition(".")
            yield f"{full.get(first, first)}.{rest}".rstrip("."), node
    yield from ((name, tree) for name in full.values())


def short(path):
    return path.relative_to(ROOT).as_posix()


def test_nothing_that_runs_code_of_a_file_is_called_but_in_two_places():
    found = {(short(p), name) for p in SOURCES for name, _ in names_used(p) if name in DANGEROUS}
    assert found == set(ALLOWED)


def test_arguments_that_would_run_code_are_not_given():
    """`allow_pickle=True`, `weights_only=False`, `shell=True`, `trust_remote_code`; a `np.load` says that it
    takes no pickle, the one `torch.load` that it takes weights only."""
    wanted = {
        "np.load": ("allow_pickle", False),
        "numpy.load": ("allow_pickle", False),
        "torch.load": ("weights_only", True),
    }
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            assert dotted(node.func) not in BUILTINS, f"{path}:{node.lineno}"
            given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            assert not given.get("shell"), f"{path}:{node.lineno}"
            assert not given.get("allow_pickle"), f"{path}:{node.lineno}"
            assert "trust_remote_code" not in {k.arg for k in node.keywords}, f"{path}:{node.lineno}"
            if (name := dotted(node.func)) in wanted:
                argument, value = wanted[name]
                assert given.get(argument) is value, f"{path}:{node.lineno}: {name} without {argument}"


def test_the_walk_finds_what_it_looks_for(tmp_path):
    """Under another name, too."""
    (tmp_path / "a.py").write_text(
        "import pickle as p, os\nfrom torch import load as l\nl('x')\np.loads(b'')\nos.killpg(1, 2)\n"
    )
    found = {name for name, _ in names_used(tmp_path / "a.py")}
    assert found >= {"torch.load", "pickle.loads", "os.killpg"}


def test_nothing_is_used_that_windows_or_macos_lack_without_a_fallback():
    found = set()
    for path in SOURCES:
        for name, _ in names_used(path):
            if name in POSIX_ONLY or name.split(".")[0] in POSIX_MODULES:
                found.add((short(path), name if name in POSIX_ONLY else name.split(".")[0]))
            assert not name.startswith(("multiprocessing.", "torch.multiprocessing.")), path
        assert '"/proc' not in path.read_text("utf-8"), path
        assert '"/tmp' not in path.read_text("utf-8"), path
    assert found == set(FALLBACKS)


def test_without_what_only_linux_has_the_readers_and_cores_work(monkeypatch, tmp_path):
    from facepcl.data import workers
    from facepcl.data.sources import Item
    from facepcl.images.transform import Transform
    from facepcl.utils.cpus import cores

    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert cores() >= 1
    with workers.Readers(Transform.square(8), 1) as pool:
        (found,) = pool.submit([Item("a", b"no picture")]).result()
    assert found.error == "not an image in a format that Pillow reads"


@pytest.mark.parametrize("error", [TypeError, AttributeError, OSError])  # Windows, macOS, musl
def test_without_glibc_its_memory_is_left_alone(monkeypatch, error):
    from facepcl.utils import memory

    def library(name):
        raise error(name)

    monkeypatch.setattr(memory.ctypes, "CDLL", library)
    memory.keep_freed_memory()
    memory.give_back_freed_memory()


def test_mps_is_a_device_like_any_other():
    """Where there is none, the sentence says so; it is no typing error."""
    if torch.backends.mps.is_available():
        assert facepcl.FaceEmbedder("pcl_facecycle", device="mps").device.type == "mps"
        return
    with pytest.raises(FacepclError, match="device 'mps' cannot be used"):
        facepcl.FaceEmbedder("pcl_facecycle", device="mps")


# -- files of strangers


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "code-was-run"


def lay_traps(folder, trace):
    """Code and pickles under all the names that some loader somewhere would take."""
    code = f"open({str(trace)!r}, 'w')\n"
    for name in ("model.py", "modeling.py", "hubconf.py", "__init__.py", "sitecustomize.py", "timm.py"):
        (folder / name).write_text(code)
    for name in ("pytorch_model.bin", "model.pth", "branches.bin", "open_clip_pytorch_model.bin"):
        torch.save(Bomb(trace), folder / name)
    (folder / "decoder.pkl").write_bytes(pickle.dumps(Bomb(trace)))


def test_a_folder_with_code_and_pickles_in_it_runs_nothing(encoders, tmp_path, trace, monkeypatch):
    _, good = encoders("pcl_facecycle")
    change = {"auto_map": {"AutoModel": "modeling.Model"}, "custom_pipeline": "model"}
    folder = changed_encoder(good, tmp_path / "encoder", change)
    lay_traps(folder, trace)
    monkeypatch.chdir(folder)
    facepcl.create_model(f"local-dir:{folder}")
    facepcl.FaceEmbedder(f"local-dir:{folder}", dtype="float32")
    (folder / "model.safetensors").unlink()  # now the pickles are all there is
    with pytest.raises(FacepclError):
        facepcl.create_model(f"local-dir:{folder}")
    assert not trace.exists()


def test_a_repository_with_code_and_pickles_in_it_runs_and_fetches_none(hub, encoders, tmp_path, trace):
    _, good = encoders("pcl_facecycle")
    traps = tmp_path / "traps"
    traps.mkdir()
    lay_traps(traps, trace)
    files = {path.name: path.read_bytes() for folder in (good, traps) for path in folder.iterdir()}
    hub.put("org/encoder", files)
    facepcl.create_model("hf-hub:org/encoder")
    fetched = {path.suffix for path in (tmp_path / "home/hub").rglob("snapshots/*/*")}
    assert fetched == {".json", ".safetensors"}
    assert not trace.exists()


COMMANDS = {
    "embed": "embed . -o out.npz --workers 1",
    "align": "align people crops --landmarks points.csv --workers 1",
    "probe": "probe verification people --out results --cache cache --workers 1",
    "pretrain": "pretrain faces.tar --out run --stream 1 --steps 1 --batch 4 --pose-batch 2 --source-size 64",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_of_the_working_folder_is_imported(tmp_path, trace, command):
    """`python -m` puts the working folder first on the path, and a stranger's data set may be that folder."""
    for number in range(12):
        put_face(tmp_path / f"people/{number // 2}/{number}.jpg", number)
    put_face(tmp_path / "face.jpg")
    rows = "".join(f"people/{n // 2}/{n}.jpg,20,25,44,25,32,35,24,45,40,45\n" for n in range(12))
    (tmp_path / "points.csv").write_text(f"path,{','.join(LANDMARK_COLUMNS)}\n{rows}")
    pack(tmp_path / "faces.tar", {f"{n}.jpg": FACES[n].read_bytes() for n in range(8)})
    for name in ("json", "types", "enum", "queue", "argparse", "contextlib", "numpy", "PIL", "torch", "timm"):
        (tmp_path / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write('{name} ')\n")
    done = subprocess.run(
        [sys.executable, "-m", "facepcl", *COMMANDS[command].split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, trace.exists()) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("pcl_resnet18", {"model_args": {"layers": [2, 2, 2, 2000]}}, "more layers than there are tensors"),
        ("pcl_resnet18", {"model_args": {"layers": [2, 2, 2, 10]}}, "encoder does not fit .* layer4.2"),
        ("pcl_resnet18", {"model_args": {"channels": [64, 128, 256, 60000]}}, r"\[512\], not \[60000\]"),
        ("pcl_resnet18", {"model_args": {"base_width": 1 << 30}}, "base_width in its .* above 65536"),
        ("pcl_resnet18", {"model_args": {"layers": [1e999] * 4}}, "layers in its .* above 65536"),
        ("pcl_resnet18", {"model_args": {"checkpoint_path": "x.pth"}}, "'checkpoint_path' among model_args"),
        ("pcl_facecycle", {"model_args": {"in_chans": 50000}}, r"\[64, 3, 7, 7\], not \[64, 50000, 7, 7\]"),
        ("pcl_facecycle", {"num_classes": 10**9}, "num_classes in its config.json is 1000000000"),
        ("pcl_facecycle", {"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "not a size of images"),
        ("pcl_facecycle", {"pretrained_cfg": {"crop_pct": 1e-9}}, "not a share of an image"),
    ],
    ids=str,
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_description_of_a_network_is_compared_before_it_takes_memory(
    encoders, tmp_path, name, change, said, pretrained
):
    folder = changed_encoder(encoders(name)[1], tmp_path / "encoder", change)
    with pytest.raises(FacepclError, match=said):
        facepcl.create_model(f"local-dir:{folder}", pretrained)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": 100_000}, "depth in its config.json is 100000"),
        ({"img_size": 60_000}, "numbers above 4096"),
        ({"embed_dim": 3072, "depth": 100}, r"describes .*e\+10 parameters, and vit_tiny"),
    ],
    ids=str,
)
def test_so_is_that_of_another_of_timms_models(tmp_path, change, said):
    save_for_hf(timm.create_model("vit_tiny_patch16_224"), str(tmp_path), safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_args": change}))
    with pytest.raises(FacepclError, match=said):
        facepcl.FaceEmbedder(f"local-dir:{tmp_path}")


def test_heads_that_are_wider_than_their_tensors_are_refused(encoders, tmp_path):
    model, _ = encoders("pcl_facecycle")
    specs = {"pose": HeadSpec("pose", 2, "none", ("yaw", "pitch", "roll"))}
    folder = save_encoder(model, tmp_path / "encoder", heads=Heads(specs, {"pose": 512}))
    config = json.loads((folder / "config.json").read_text())
    config["facepcl"]["heads"]["pose"]["outputs"] = 1 << 14
    (folder / "config.json").write_text(json.dumps(config))
    save_tensors({"pose.weight": torch.zeros(1, 10_000_000)}, folder / "heads.safetensors")
    with pytest.raises(WeightsError, match="does not hold the heads pose"):
        facepcl.create_heads(f"local-dir:{folder}")


def test_weights_come_from_the_folder_whatever_its_config_names(encoders, tmp_path):
    model, good = encoders("pcl_facecycle")
    torch.save(timm.create_model("pcl_facecycle").state_dict(), tmp_path / "other.pth")
    elsewhere = {"source": "local-dir", "file": str(tmp_path), "url": "http://localhost:1/x.pth"}
    folder = changed_encoder(good, tmp_path / "encoder", {"pretrained_cfg": elsewhere})
    loaded = facepcl.create_model(f"local-dir:{folder}")
    assert torch.equal(loaded.state_dict()["conv1.0.weight"], model.state_dict()["conv1.0.weight"])


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, trace, protocol):
    (tmp_path / "c.pth").write_bytes(pickle.dumps({"state_dict": Bomb(trace)}, protocol))
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([Bomb(trace)], [True]), protocol))
    torch.save({"a": torch.ones(2), "b": Bomb(trace)}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as archive:
        assert any(name.endswith("data.pkl") for name in archive.namelist())
    for name, said in (
        ("c.pth", r"c\.pth"),
        ("new.pth", r"new\.pth contains \S*open .*runs no code from a file"),
    ):
        with pytest.raises(WeightsError, match=said) as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FacepclError, match="open"):
        read_bin(tmp_path / "lfw.bin")
    assert not trace.exists()


def test_the_demo_is_for_this_machine_alone():
    from facepcl import demo

    assert demo.HOST in demo.LOOPBACK
    for path in SOURCES:
        assert "0.0.0.0" not in path.read_text("utf-8"), path


# -- the public forge


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))


def test_the_workflow_has_least_rights_no_secrets_and_pinned_actions(workflow):
    text = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    assert "pull_request_target" not in text
    triggers = workflow[True]  # YAML 1.1 takes `on` for yes
    assert set(triggers) == {"push", "pull_request", "schedule", "workflow_dispatch"}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
        assert "permissions" not in job, name
        for step in job["steps"]:
            if "uses" in step:
                action, _, version = step["uses"].partition("@")
                assert action in ("actions/checkout", "actions/setup-python"), action
                assert re.fullmatch("[0-9a-f]{40}", version), step  # a tag can be moved, a commit cannot
                if action == "actions/checkout":
                    assert step["with"]["persist-credentials"] is False
            else:
                assert step["run"].strip(), name


def test_the_workflow_runs_the_oldest_and_the_newest_that_pyproject_states(workflow):
    try:
        import tomllib
    except ImportError:
        pytest.skip("tomllib is of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    runs = workflow["jobs"]["tests"]["strategy"]["matrix"]["include"]
    oldest = next(run for run in runs if run["deps"] == "oldest")
    assert project["requires-python"] == f">={oldest['python']}"
    floors = {line.partition(">=")[0]: line.partition(">=")[2] for line in project["dependencies"]}
    pins = dict(line.split("==") for line in (ROOT / "tests/oldest.txt").read_text().split())
    assert set(pins) == set(floors)
    for name, floor in floors.items():
        assert pins[name].startswith(floor), name
