"""`facepcl probe` from the command line: data in, a JSON and a page out, and nothing else changed."""

import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from facepcl import cli, probes
from facepcl.embedding.embedder import FaceEmbedder
from facepcl.errors import OptionError
from facepcl.probes import run_probe

TASKS = {
    "expression": ("accuracy", 0.9),
    "verification": ("accuracy", 0.7),
    "action-units": ("auc", 0.7),
    "head-pose": ("mae_yaw", None),
    "disentangle": ("pose_over_expression_shared", None),
}
QUICK = ("expression", "head-pose")  # of the tests that take seconds a task


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """Discs on a ground of a person's own: where one is, how large, how dark tells pose, expression, units.

    12 people, 5 images each in a series of pose and one of expression.
    """
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("discs")
    path = folder / "discs.tar"
    with tarfile.open(path, "w") as tar:
        for person in range(12):
            ground = random.uniform(60, 255, (4, 4, 3)).astype(np.uint8)
            for series, n in ((s, n) for s in ("pose", "expression") for n in range(5)):
                yaw, size = (12 * n - 24, 8) if series == "pose" else (0, 5 + 3 * n)
                image = Image.fromarray(ground).resize((64, 64), Image.Resampling.BICUBIC)
                x, y = 32 + yaw / 2, 32
                shade = (0, 0, 0) if n % 2 else (0, 0, 200)
                ImageDraw.Draw(image).ellipse((x - size, y - size, x + size, y + size), shade)
                labels = {"yaw": yaw, "pitch": 1.0, "roll": 0.0, "identity": person, "series": series}
                labels |= {"expression": "abcde"[(size - 5) // 3], "au": {"AU12": n % 2, "AU4": n / 4}}
                name = f"{person:02}-{series}-{n}"
                image.save(folder / f"{name}.png")
                (folder / f"{name}.json").write_text(json.dumps(labels))
                for end in ("png", "json"):
                    tar.add(folder / f"{name}.{end}", f"{name}.{end}")
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FACEPCL_CACHE", str(tmp_path_factory.getbasetemp() / "features"))


def probe(tmp_path, task, data, *options, model="pixels"):
    """Exit code and the one JSON that a run writes."""
    out = tmp_path / "out"
    code = cli.main(["probe", task, str(data), "--model", model, "--out", str(out), *options])
    files = list(out.glob("*.json"))
    return code, json.loads(files[0].read_text()) if files else None


@pytest.mark.parametrize("task", TASKS)
def test_each_task_writes_its_numbers_a_page_and_a_row_of_a_table(tmp_path, shard, capsys, task):
    page = tmp_path / "report.html"
    code, numbers = probe(tmp_path, task, shard, "--report", str(page))
    name, least = TASKS[task]
    assert code == 0
    assert numbers["task"] == ("verification (drawn pairs)" if task == "verification" else task)
    assert least is None or numbers[name] > least
    assert not any(isinstance(value, dict) for value in numbers.values())
    assert "<svg" in page.read_text("utf-8")
    capsys.readouterr()
    assert cli.main(["probe", "table", str(tmp_path / "out"), "--format", "markdown"]) == 0
    assert "| discs.tar | pixels |" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_seed_gives_the_same_json(tmp_path, shard):
    texts = []
    for run, seed in enumerate("001"):
        out = tmp_path / str(run)
        probes.run(
            "expression", shard, model="random:pcl_facecycle", seed=int(seed), out=out, cache=out / "features"
        )
        texts.append(next(out.glob("*.json")).read_text())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["expression", "verification"])
def test_what_a_program_has_set_in_torch_does_not_change_a_result(tmp_path, shard, task):
    plain = probes.run(task, shard, model="random:pcl_facecycle", cache=tmp_path / "a").numbers
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            found = probes.run(task, shard, model="random:pcl_facecycle", cache=tmp_path / "b").numbers
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == plain


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=() if task in QUICK else pytest.mark.slow) for task in TASKS]
)
def test_a_probe_leaves_the_encoder_as_it_was_and_in_eval_mode(tmp_path, shard, task, monkeypatch):
    kept = []

    class Watched(FaceEmbedder):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            kept.append((self.model, {n: t.clone() for n, t in self.model.state_dict().items()}))

    monkeypatch.setattr(run_probe, "FaceEmbedder", Watched)
    probes.run(task, shard, model="pcl_facecycle", cache=tmp_path / "features")
    ((model, before),) = kept
    assert all((model.state_dict()[name] == tensor).all() for name, tensor in before.items())
    assert not any(part.training for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_images_that_cannot_be_read_are_counted_and_the_exit_code_is_one(tmp_path, shard):
    for number, file in enumerate(sorted(shard.parent.glob("*.png"))):
        place = tmp_path / "data" / str(number % 3) / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    (tmp_path / "data/0/bad.png").write_bytes(b"no image")
    (tmp_path / "data/0/lost.png").symlink_to(tmp_path / "nowhere.png")
    code, numbers = probe(tmp_path, "expression", tmp_path / "data")
    assert (code, numbers["n_failed"], numbers["n_images"]) == (1, 2, 122)


def test_a_second_data_set_is_what_is_scored(tmp_path, shard, capsys):
    other = shutil.copy(shard, tmp_path / "other.tar")
    code, numbers = probe(tmp_path, "head-pose", shard, "--test", str(other))
    assert code == 0
    assert numbers["n_test"] == 120
    assert numbers["subjects_in_train_and_test"] == 12
    assert "12 people are in both train and test" in capsys.readouterr().err


def test_units_that_only_one_of_two_data_sets_has_are_left_out_and_told(tmp_path, shard, capsys):
    """As DISFA has others than BP4D."""
    for name, unit in (("a", "AU2"), ("b", "AU5")):
        lines = [f"path,subject,AU1,{unit}"]
        for i in range(24):
            Image.new("RGB", (64, 64), (8 * i, 99, 60 * (i % 2))).save(tmp_path / f"{name}{i}.png")
            lines.append(f"{name}{i}.png,{name}{i // 2},{i % 2},{i % 3 == 0:d}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    code, numbers = probe(tmp_path, "action-units", tmp_path / "a.csv", "--test", str(tmp_path / "b.csv"))
    assert code == 0
    assert (numbers["units"], numbers["n_test"]) == (["AU1"], 24)
    assert "AU2, AU5 left out: not labelled in all images" in capsys.readouterr().err


def test_unknown_people_are_told_and_not_counted_as_none(tmp_path, shard, capsys):
    rows = [f"{file},{n % 2}" for n, file in enumerate(sorted(shard.parent.glob("*.png")))]
    (tmp_path / "data.csv").write_text("\n".join(["path,expression", *rows]))
    _, numbers = probe(tmp_path, "expression", tmp_path / "data.csv")
    assert (numbers["subjects"], numbers["subjects_in_train_and_test"]) == (None, None)
    assert "The people in some images are unknown" in capsys.readouterr().err


@pytest.mark.parametrize("data", [".", "below/..", ".."])
def test_a_working_folder_is_named_in_the_result(tmp_path, shard, monkeypatch, data):
    here = tmp_path / "faces" / ("below" if data == ".." else "")
    (tmp_path / "faces/below").mkdir(parents=True)
    shutil.copy(shard, tmp_path / "faces")
    monkeypatch.chdir(here)
    assert probes.run("expression", data, model="pixels").numbers["data"] == "faces"


def test_no_number_of_shots_is_all_images(shard):
    few = probes.run("expression", shard, model="pixels", shots=None).numbers
    assert few == probes.run("expression", shard, model="pixels").numbers


def test_results_of_two_data_sets_of_one_name_lie_side_by_side(tmp_path, shard):
    files = sorted(shard.parent.glob("*.png"))
    for folder, turn in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        rows = [f"{file},{(n + turn) % 3}" for n, file in enumerate(files)]
        (tmp_path / folder / "labels.csv").write_text("\n".join(["path,expression", *rows]))
        probe(tmp_path, "expression", tmp_path / folder / "labels.csv")
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


@pytest.mark.slow
def test_results_of_another_precision_or_number_of_draws_lie_side_by_side(tmp_path, shard):
    probe(tmp_path, "expression", shard)
    for options in (("--dtype", "bfloat16"), *(("--shots", "4", "--repeats", n) for n in "23")):
        probe(tmp_path, "expression", shard, *options)
    assert len(list((tmp_path / "out").glob("*.json"))) == 4


def test_results_of_other_pictures_with_the_same_names_and_labels_lie_side_by_side(tmp_path, shard):
    for folder, quality in (("a", 90), ("b", 20)):
        for n, file in enumerate(sorted(shard.parent.glob("*.png"))):
            (tmp_path / folder / "faces" / "xyz"[n % 3]).mkdir(parents=True, exist_ok=True)
            target = tmp_path / folder / "faces" / "xyz"[n % 3] / f"{file.stem}.jpg"
            Image.open(file).convert("RGB").save(target, quality=quality)
        probe(tmp_path, "expression", tmp_path / folder / "faces")
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


def test_a_result_has_a_name_that_a_file_can_have():
    head = dict.fromkeys(("labels_sha256", "files_sha256", "weights_sha256"), "0" * 12)
    head |= {
        "task": "action-units",
        "data": "d" * 300,
        "test": "t" * 300,
        "branch": "concat",
        "pool": "flatten",
    }
    head |= {"input": 1000, "aligned": True, "protocol": "paper", "dtype": "bfloat16", "seed": 10**9}
    name = run_probe.result_name(
        {**head, "shots": 100, "repeats": 100, "model": "local-dir:/" + "m" * 250 + "/encoder"}
    )
    assert len(name) < 245  # with what is put around it while it is written
    assert "m-encoder" in name


def test_branches_are_extracted_together(tmp_path, shard, monkeypatch):
    probes.run("head-pose", shard, branch="face", cache=tmp_path)
    monkeypatch.setattr(FaceEmbedder, "batches", None)
    wide = probes.run("head-pose", shard, branch="concat", cache=tmp_path).numbers
    assert wide["dimension"] == 3 * 2048
    assert probes.run("head-pose", shard, branch="pose", cache=tmp_path).numbers["branch"] == "pose"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["verification", "{shard}", "--protocol", "paper"], "no protocol is published"),
        (["head-pose", "{shard}", "--model", "pixels", "--branch", "face"], "has no branches"),
        (["expression", "{shard}", "--model", "no_such_model"], "Unknown model 'no_such_model'"),
        (["expression", "{shard}", "--model", "random:pcl_nothing"], "Unknown model 'pcl_nothing'"),
        (["expression", "{shard}", "--protocol", "paper", "--pool", "avg"], "'paper' has pool 'flatten'"),
        (["expression", "{shard}", "--shots", "2"], "at least 4"),
        (["expression", "{shard}", "--seed", "-1"], "--seed must be at least 0"),
        (["expression", "{shard}", "--workers", "-1"], "workers must be at least 0"),
        (["expression", "{shard}", "--report", "page.pdf"], "the name of a report must end in .html"),
        (["expression", "nowhere"], "there is no such file or folder"),
        (
            ["expression", "{shard}", "--layout", "cfp"],
            "Unknown layout of expression 'cfp'. Available: auto, ",
        ),
        (["table", "nowhere"], "there is no such folder"),
    ],
)
def test_a_wrong_word_is_one_sentence_before_any_work(shard, capsys, options, words):
    assert cli.main(["probe", *(o.format(shard=shard) for o in options)]) == 2
    assert words in capsys.readouterr().err


def test_codes_averaged_with_their_mirror_images_are_not_asked_for_disentanglement(shard):
    with pytest.raises(OptionError, match="flip would make them equal"):
        probes.run("disentangle", shard, flip=True)


def test_a_task_that_does_not_exist_is_an_error_that_lists_them(shard):
    with pytest.raises(OptionError, match=r"Unknown task 'age'\. Available: expression, verification"):
        probes.run("age", shard)
