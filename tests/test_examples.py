"""The examples run as they are written in their first lines."""

import ast
import importlib.util
import io
import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.files import ROOT
from helpers.scripts import output, run_script
from PIL import Image

import facepcl
from facepcl import pretrain
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.tables import write_table


def test_the_sample_faces_are_two_dozen_crops_of_six_people():
    faces = sorted((ROOT / "examples/faces").glob("*.jpg"))
    assert len(faces) == 24
    assert len({face.name.partition("_")[0] for face in faces}) == 6
    assert {Image.open(face).size for face in faces} == {(112, 112)}


@pytest.mark.slow
def test_fine_tune_writes_weights_that_load(tmp_path):
    for face in (ROOT / "examples/faces").glob("person[12]*.jpg"):
        folder = tmp_path / "faces" / face.name.partition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / face.name).write_bytes(face.read_bytes())
    out = tmp_path / "tuned.safetensors"
    command = f"python {ROOT}/examples/fine_tune.py {tmp_path}/faces --epochs 1 --out {out}"
    assert "held-out faces right (2 classes)" in "\n".join(output(command))
    facepcl.create_model("pcl_facecycle", pretrained=out, branches=False, num_classes=2)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of examples/ in the working folder, to plant files in."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "examples/faces"


def typed(name, number=0):
    """The command with this number in the first lines of an example."""
    text = ast.get_docstring(ast.parse((ROOT / "examples" / name).read_text("utf-8")))
    return re.findall("^    (python .*)$", text, re.MULTILINE)[number]


def jpeg(image, quality):
    image.save(file := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(file)


def cropped(image, share):
    width, height = image.size
    x, y = round(share * width), round(share * height)
    return image.crop((x, y, width - x, height - y))


COPIES = {
    "quality 40": lambda image: jpeg(image, 40),
    "80 px": lambda image: image.resize((80, 80)).resize(image.size),
    "without 3 %": lambda image: cropped(image, 0.03),
}


def names_in(lines):
    return {frozenset(Path(path).name for path in line.split()[1:]) for line in lines}


def test_find_duplicates_finds_the_planted_copies_and_mixes_no_people(copied):
    first, second, third = (
        copied / f"{name}.jpg"
        for name in ("person2_yaw+08_fear", "person4_yaw-07_happy", "person6_yaw+10_sad")
    )
    jpeg(Image.open(first), 40).save(copied / "person2_again.png")
    jpeg(Image.open(second).resize((80, 80)), 60).save(copied / "person4_small.png")
    cropped(Image.open(third), 0.03).save(copied / "person6_cropped.png")
    jpeg(Image.open(third), 40).save(copied / "person6_encoded.png")
    (copied / "notes.jpg").write_text("no image")
    planted = [
        {first.name, "person2_again.png"},
        {second.name, "person4_small.png"},
        {third.name, "person6_cropped.png", "person6_encoded.png"},
    ]
    *groups, last = output(typed("find_duplicates.py"))
    found = names_in(groups)
    assert all(any(copies <= group for group in found) for copies in planted)
    assert all(len({name.partition("_")[0] for name in group}) == 1 for group in found)
    assert last == f"{len(groups)} groups in 28 faces; 1 images have none or are damaged"

    facepcl.embed(copied, "table.csv", branch="shared,identity", flip=True)
    *groups, same_last = output("python examples/find_duplicates.py table.csv")
    assert (names_in(groups), same_last) == (found, last)


def test_find_duplicates_refuses_a_table_for_which_it_has_no_threshold(copied):
    facepcl.embed(copied, "table.csv", branch="identity")
    with pytest.raises(facepcl.FacepclError, match="made without --flip"):
        imported("find_duplicates").threshold_of(facepcl.read_embeddings("table.csv"))


# numbers of photos, by eye
PEOPLE = [{*range(1, 12)}, {0, 8}, {24, 25, 34, 56, 77, 81}, {26, 45, 71}, {27, 28}, {65, 66, 82}]


@pytest.mark.slow
def test_find_duplicates_finds_copies_of_real_photos_and_mixes_no_people(photographs, detector, tmp_path):
    find = imported("find_duplicates")
    originals = sorted(photographs.glob("*.jpg"))

    def embedded(files):
        options = {"branch": "identity", "flip": True, "align": True, "detector": detector}
        facepcl.embed(list(map(str, files)), tmp_path / "faces.npz", **options)
        table = facepcl.read_embeddings(tmp_path / "faces.npz")
        good = [i for i, error in enumerate(table.errors) if error is None]
        (tmp_path / "faces.npz").unlink()
        return [Path(table.paths[i]).stem for i in good], table.vectors[good], find.threshold_of(table)

    names, faces, threshold = embedded(originals)
    groups = [{int(names[i][:3]) for i in rows} for rows in find.groups_of(faces, threshold)]
    assert all(any(group <= person for person in PEOPLE) for group in groups)
    found = []
    for number, change in enumerate((COPIES["quality 40"], halved, COPIES["without 3 %"])):
        (folder := tmp_path / str(number)).mkdir()
        for photo in originals:
            with Image.open(photo) as image:
                change(image.convert("RGB")).save(folder / f"{photo.stem}.jpg", quality=90)
        copied_names, copies, _ = embedded(sorted(folder.iterdir()))
        similar = faces @ copies.T >= threshold
        found += [
            (np.array(copied_names)[row] == name).any() for name, row in zip(names, similar, strict=True)
        ]
    assert np.mean(found) >= 0.88  # 0.90 here; faces at the edge are lost where a photo is cut


def halved(image):
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def imported(name):
    """An example as a module, to call its functions."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def test_groups_of_blocks_are_those_of_the_whole_matrix(monkeypatch):
    example = imported("find_duplicates")
    monkeypatch.setattr(example, "BLOCK", 7)
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    for threshold in (0.85, 0.9, 0.95):
        near = facepcl.similarity(vectors, vectors) >= threshold
        for _ in range(6):  # 2 ** 6 steps reach the end of any chain of 60
            near = (near.astype(int) @ near) > 0
        groups = {tuple(np.flatnonzero(row).tolist()) for row in near if row.sum() > 1}
        assert example.groups_of(vectors, threshold) == [list(group) for group in sorted(groups)]
        assert groups


def scores(lines):
    return {line.split()[0]: float(line.split()[1].rstrip("%")) for line in lines}


def test_scikit_learn_reads_the_yaw_off_the_pose_code(copied):
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install scikit-learn")
    (copied / "person1_yaw+90_notes.jpg").write_text("no image")
    first, *lines = output(typed("scikit_learn_features.py"))
    assert first == "24 faces; 1 skipped for an error"
    degrees = scores(lines)
    assert list(degrees) == ["shared", "face", "pose", "constant"]
    assert degrees["pose"] < degrees["face"]
    assert degrees["pose"] < degrees["constant"] / 3
    assert degrees["shared"] < degrees["constant"] / 2


def test_scikit_learn_tells_class_folders_apart(copied):
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install scikit-learn")
    for side, sign in (("left", "-"), ("right", "+")):
        (Path("FACES") / side).mkdir(parents=True)
        for face in copied.glob(f"*yaw{sign}*"):
            shutil.copy(face, Path("FACES", side, f"{len(list(Path('FACES', side).iterdir()))}.jpg"))
    right = scores(output(typed("scikit_learn_features.py", 1))[1:])
    assert right["pose"] > right["constant"] + 20


def test_duckdb_counts_the_errors_and_finds_the_copy_first(copied):
    for package in ("duckdb", "pyarrow"):
        pytest.importorskip(package, reason=f"needs {package}: pip install {package}")
    (copied / "notes.jpg").write_text("no image")
    (copied / "more_notes.jpg").write_text("no image either")
    (copied / "nothing.png").write_bytes(b"")
    face = "examples/faces/person4_yaw-25_disgust.jpg"
    jpeg(Image.open(face), 40).save(copied / "again.png")
    counted = output(typed("query_duckdb.py"))
    lines = output(typed("query_duckdb.py", 1))
    (head, *outcomes), (title, *nearest) = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert counted == [head, *outcomes]

    table = facepcl.read_embeddings("faces.parquet")
    counts = Counter(error or "fine" for error in table.errors)
    assert sorted(counts.values()) == [1, 2, 25]
    assert (head, title) == ("images  outcome", f"cosine  nearest to {face}")
    assert outcomes == [f"{count:6}  {outcome}" for outcome, count in counts.most_common()]
    assert nearest[0].endswith("  examples/faces/again.png")
    cosines = facepcl.similarity(table.vectors[table.paths.index(face)], table.vectors)[0]
    order = [i for i in np.argsort(-np.nan_to_num(cosines, nan=-1)) if table.paths[i] != face][:5]
    assert [line.split()[1] for line in nearest] == [table.paths[i] for i in order]
    assert [float(line.split()[0]) for line in nearest] == pytest.approx(cosines[order].tolist(), abs=1e-4)


def test_faiss_finds_what_the_exact_search_finds(copied):
    pytest.importorskip("faiss", reason="needs faiss: pip install faiss-cpu")
    (copied / "notes.jpg").write_text("no image")  # rows with an error have no number in the index
    written, recall = output(typed("search_with_faiss.py"))
    assert written == "wrote faces.faiss: 24 vectors"
    assert recall == "it finds 100.0% of the 10 nearest rows of the exact search"
    title, *lines = output(typed("search_with_faiss.py", 1))
    [result] = facepcl.search((), "faces.npz", rows=[3])
    assert title == f"cosine  nearest to {result.query}"
    assert [line.split()[1] for line in lines] == [match.path for match in result.matches]
    cosines = [match.similarity for match in result.matches]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(cosines, abs=1e-4)


def test_faiss_reads_a_folder_table_by_table_with_the_rows_of_all(copied):
    for package in ("faiss", "pyarrow"):
        pytest.importorskip(package, reason=f"needs {package}")
    facepcl.embed(copied, "table.npz")
    whole = facepcl.read_embeddings("table.npz")
    Path("tables").mkdir()
    for number, start in enumerate(range(0, 24, 9)):
        some = slice(start, start + 9)
        rows = Embeddings(
            whole.vectors[some], whole.paths[some], whole.errors[some], whole.sizes[some], whole.meta
        )
        write_table(f"tables/{number}.parquet", whole.meta, [rows], len(rows))
    one, folder = (
        output(f"python examples/search_with_faiss.py {table} --index {index} --row 20")
        for table, index in (("table.npz", "one.faiss"), ("tables", "folder.faiss"))
    )
    assert folder[1:] == one[1:]


@pytest.mark.parametrize(
    ("example", "package", "line"),
    [
        ("search_with_faiss.py", "faiss", "pip install faiss-cpu"),
        ("query_duckdb.py", "duckdb", "pip install duckdb"),
        ("query_duckdb.py", "pyarrow", "pip install 'facepcl[parquet]'"),
        ("scikit_learn_features.py", "sklearn", "pip install scikit-learn"),
    ],
)
def test_a_package_that_is_missing_is_one_sentence_with_the_pip_line(
    copied, monkeypatch, example, package, line
):
    if package == "pyarrow":
        pytest.importorskip("duckdb", reason="the example asks for duckdb first: pip install duckdb")
    Path("without").mkdir()
    Path("without", f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})")
    monkeypatch.syspath_prepend("without")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    done = run_script(typed(example))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"is not installed; type: {line}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("views", [3_200, 6_400, 100_000, 300_000])
def test_the_ablation_gives_every_method_the_same_views(views):
    example = imported("ablation")
    runs = example.plan(pretrain.Config(data=(), out="", **pretrain.PRESETS["small"]), views)
    assert tuple(runs) == example.METHODS
    seen = {config.steps * config.views_per_step for config in runs.values()}
    assert len(seen) == 1
    assert views - 3_200 < seen.pop() <= views


def test_the_ablation_refuses_fewer_views_than_whole_steps_of_every_method():
    example = imported("ablation")
    with pytest.raises(SystemExit, match="--views 3199: at least 3200"):
        example.plan(pretrain.Config(data=(), out="", **pretrain.PRESETS["small"]), 3_199)


def test_the_table_of_the_ablation_has_a_mean_and_a_deviation_over_the_seeds():
    found = [{"head-pose mae": 7.0}, {"head-pose mae": 9.0}]
    rows = [{"method": "pcl", "branch": "shared", "views": 6400, "seed": i} | f for i, f in enumerate(found)]
    assert imported("ablation").markdown(rows, ["head-pose"]).splitlines() == [
        "| method | branch | views | seeds | head-pose mae |",
        "| --- | --- | --- | --- | --- |",
        "| pcl | shared | 6,400 | 2 | 8.000 ± 1.414 |",
    ]


def test_the_control_of_the_ablation_is_even_or_odd_under_mirroring():
    encoder, images = facepcl.create_model("pcl_facecycle").eval(), torch.rand(2, 3, 32, 32)
    parts = {sign: imported("ablation").MirrorPart(encoder, sign) for sign in (1.0, -1.0)}
    with torch.no_grad():
        for sign, part in parts.items():
            maps = part.forward_features(images)
            torch.testing.assert_close(part.forward_features(images.flip(3)), sign * maps)
        both = sum(part.forward_features(images) for part in parts.values())
        torch.testing.assert_close(both, encoder.forward_features(images))
    embedders = [facepcl.FaceEmbedder(part, size=32) for part in parts.values()]
    assert len({embedder.meta["space"] for embedder in embedders}) == 2  # so that cached features differ


@pytest.mark.slow
def test_the_ablation_trains_each_method_once(copied):
    command = (
        "python examples/ablation.py examples/faces --out runs --views 32 --seeds 0 "
        "--set batch=4 pose_batch=4 pose_negatives=2 source_size=64 size=32 dtype=float32 device=cpu"
    )
    first = run_script(command)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("steps of") == 5
    table = Path("runs/ablation.md").read_text("utf-8")
    assert table.count("| 32 | 1 |") == 5
    assert table.count("| untrained, even part | shared | 0 | 1 |") == 1
    assert Path("runs/ablation.csv").read_text("utf-8").startswith("method,branch,seed,views\n")
    again = run_script(command)
    assert (again.stdout, again.stderr) == (first.stdout, "")


def test_the_ablation_does_not_mix_runs_of_other_numbers(copied):
    config = pretrain.Config(data=("faces",), out="runs/pcl-seed0", steps=3)
    Path(config.out).mkdir(parents=True)
    Path(config.out, "checkpoint-00000001.safetensors").touch()
    Path(config.out, "config.json").write_text(json.dumps({**asdict(config), "steps": 2}), "utf-8")
    with pytest.raises(facepcl.FacepclError, match="was started with --steps 2, not 3"):
        imported("ablation").train(config)
