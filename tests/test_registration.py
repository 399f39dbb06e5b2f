"""What `import facepcl` costs, and the models' way into timm's registry, whichever is imported first."""

import pickle
import re
import zipfile
from pathlib import Path

import pytest
import timm
from helpers.scripts import run_python

import facepcl
from facepcl.cli import main
from facepcl.models.registry import MODELS, read_index

HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "huggingface_hub", "safetensors", "gradio")
NAMES = sorted(MODELS)


@pytest.mark.parametrize(
    "script",
    [
        "import facepcl",
        "import facepcl; facepcl.list_models()",
        "from facepcl.cli import build_parser; build_parser().format_help()",
        "import facepcl.cli; facepcl.cli.main(['models'])",
    ],
)
def test_the_package_its_help_and_its_list_of_models_import_nothing_heavy(script):
    found = run_python(f"import sys\n{script}\nprint([name for name in {HEAVY!r} if name in sys.modules])")
    assert found.stdout.splitlines()[-1] == "[]"


def test_warnings_are_seen_where_no_logging_is_configured():
    script = "import facepcl, logging; of_ours = logging.getLogger('facepcl')"
    assert run_python(f"{script}; of_ours.warning('seen'); of_ours.info('unseen')").stderr == "seen\n"


@pytest.mark.parametrize(
    "imports",
    [
        "import facepcl, timm",
        pytest.param("import timm, facepcl", marks=pytest.mark.slow),
        pytest.param("import facepcl\nfrom timm import create_model\nimport timm", marks=pytest.mark.slow),
        pytest.param("import facepcl\nimport timm.layers\nimport timm", marks=pytest.mark.slow),
        pytest.param(
            "import facepcl, threading, importlib\n"
            "threads = [threading.Thread(target=importlib.import_module, args=['timm']) for _ in range(8)]\n"
            "[t.start() for t in threads]; [t.join() for t in threads]\nimport timm",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_timm_lists_the_models_whichever_is_imported_first(imports):
    script = f"{imports}\nprint(timm.list_models('pcl_*'), len(timm.list_models('pcl_*', pretrained=True)))"
    assert run_python(script).stdout == f"{NAMES} {len(read_index())}\n"


@pytest.mark.slow
def test_a_pickled_model_loads_where_nothing_was_imported(tmp_path):
    path = tmp_path / "model.pickle"
    model = facepcl.create_model("pcl_resnet18", device="meta")
    path.write_bytes(pickle.dumps(model))
    script = f"import pickle; print(type(pickle.load(open({str(path)!r}, 'rb'))).__name__)"
    assert run_python(script).stdout == "PclResNet\n"


@pytest.mark.slow
def test_timm_is_imported_as_it_would_be_without_facepcl():
    script = "import sys, {}timm.models; print(timm.models.__spec__.origin, len(sys.meta_path))"
    without, with_it = (run_python(script.format(first)).stdout for first in ("", "facepcl, "))
    assert with_it == without  # the finder leaves once it has done its work


@pytest.mark.slow
def test_a_timm_that_is_missing_is_said_as_ever(tmp_path):
    script = "import sys, facepcl\nsys.modules['timm'] = None\nimport timm"
    run = run_python(script, code=1)
    assert run.stderr.splitlines()[-1].startswith("ModuleNotFoundError: import of timm halted")


@pytest.mark.parametrize("name", NAMES)
def test_the_list_of_models_says_what_timm_makes(name):
    model = timm.create_model(name, branches=True, device="meta")
    parameters, size = MODELS[name]
    assert parameters == sum(p.numel() for p in model.parameters())
    assert size == {"pcl_facecycle": 64}.get(name, 128)
    info = next(info for info in facepcl.list_models() if info.name == name)
    assert info.input_size == tuple(model.pretrained_cfg["input_size"])


def test_a_package_in_a_zip_is_refused_in_one_sentence(tmp_path):
    """As `spark-submit --py-files` and zipapp have it."""
    archive = tmp_path / "facepcl.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in Path(facepcl.__file__).parent.rglob("*.py"):
            file.write(path, path.relative_to(Path(facepcl.__file__).parents[1]))
    script = f"import sys; sys.path.insert(0, {str(archive)!r})\nimport facepcl"
    last = run_python(script, env={}, cwd=tmp_path, code=1).stderr.splitlines()[-1]
    assert re.search("facepcl cannot run from .*facepcl.zip/facepcl: .* unpack the package", last)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("emebd faces", "embed"),
        ("embed faces -o x.npz --pol avg", "--pool"),
        ("embed faces -o x.npz --pool=avgg", "avg"),
        ("probe expresion faces", "expression"),
        ("pretrain faces --out x --presett small", "--preset"),
    ],
)
def test_a_mistyped_command_option_or_value_names_the_one_that_was_meant(typed, meant, capsys):
    with pytest.raises(SystemExit):
        main(typed.split())
    assert capsys.readouterr().err.endswith(f"did you mean {meant}?\n")
