"""The benchmarks run, on jobs so small that their figures mean nothing."""

import csv
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.files import FACES, ROOT
from helpers.training import label_faces

from facepcl import FaceEmbedder, cli

BENCHMARKS, FOUR = ROOT / "benchmarks", FACES[:4]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _from_their_folder(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def at_once(monkeypatch):
    """Commands run in this process: each would take seconds to start."""
    import growth
    import jobs
    import peer_jobs
    import peers
    import probe

    def run(*commands, **options):
        start, cpu = time.perf_counter(), time.process_time()
        for words in (list(map(str, command)) for command in commands):
            if words[:3] == list(jobs.FACEPCL):
                assert cli.main(words[3:]) == 0
            elif words[1] == "-c":
                monkeypatch.setattr(sys, "argv", words[2:])
                exec(words[2], {})
            else:
                peer_jobs.main([*words[2:], "--workers", "1"])
        return jobs.Spent(time.perf_counter() - start, time.process_time() - cpu, 1)

    for benchmark in (growth, peers, probe):
        monkeypatch.setattr(benchmark, "run", run)
    return run


@pytest.fixture
def four(tmp_path):
    """A folder of four faces of 112 px."""
    (tmp_path / "four").mkdir()
    for face in FOUR:
        shutil.copy(face, tmp_path / "four")
    return tmp_path / "four"


def last_table(text):
    """Its rows, as lists of cells."""
    lines = text[text.rindex("|---") :].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_a_script_as_timms_gives_the_vectors_that_facepcl_gives(four, tmp_path):
    """So the two are measured at the same work. Files of 112 px are not decoded at reduced scale; timm's
    models give the mean over the map."""
    import peer_jobs

    peer_jobs.main(["timm", str(four), str(tmp_path / "t.npz"), "--workers", "1"])
    found = np.load(tmp_path / "t.npz")
    assert [Path(path).name for path in found["paths"]] == [face.name for face in FOUR]
    wanted = FaceEmbedder(pool="avg", dtype="float32")(FOUR)
    np.testing.assert_allclose(found["vectors"], wanted, rtol=1e-3, atol=1e-5)


def test_facenets_loop_gives_a_unit_vector_an_image(four, tmp_path):
    pytest.importorskip("facenet_pytorch", reason="needs facenet-pytorch, which no extra has")
    import peer_jobs

    peer_jobs.main(["facenet", str(four), str(tmp_path / "t.npz"), "--workers", "1"])
    vectors = np.load(tmp_path / "t.npz")["vectors"]
    assert vectors.shape == (4, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_iresnet_is_arcfaces_and_runs_under_onnxruntime(four, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnx)")
    import peer_jobs

    # 43.6 million numbers: https://github.com/deepinsight/insightface, recognition/arcface_torch
    assert round(sum(p.numel() for p in peer_jobs.iresnet().parameters()) / 1e6, 1) == 43.6
    peer_jobs.export_iresnet(tmp_path / "i.onnx", depths=(1, 1, 1, 1))
    words = ["iresnet50", four, tmp_path / "t.npz", "--onnx", tmp_path / "i.onnx", "--workers", 1]
    peer_jobs.main([*map(str, words), "--batch-size", "3"])
    vectors = np.load(tmp_path / "t.npz")["vectors"]
    assert vectors.shape == (4, 512)
    assert np.isfinite(vectors).all()


def test_the_parts_of_an_iteration_are_shares_of_it(tmp_path, capsys):
    import iterations

    label_faces(tmp_path)
    iterations.main([str(tmp_path), "--models", "pcl_facecycle", "--batch", "6", "--iterations", "1"])
    ((model, _, *numbers),) = last_table(capsys.readouterr().out)
    _, _, _, of_peak, *shares = (float(number.rstrip("%")) for number in numbers)
    assert (model, 0 < of_peak < 200) == ("`pcl_facecycle`, 64 px", True)  # others may use the core as well
    assert sum(shares) == pytest.approx(100, abs=4)  # seven rounded ones
    assert min(shares[0], shares[4]) > 0  # convolutions and views


def test_peers_has_a_row_for_each_way(at_once, capsys):
    import peers

    sizes = ["--short", "2", "--long", "4", "--rounds", "1", "--side", "112"]
    peers.main(["--only", "tars", "--processes", "1", *sizes])
    rows = last_table(capsys.readouterr().out)
    ours, timms = "facepcl embed, tar", "timm's script --amp --channels-last, tar"
    assert [row[1:3] for row in rows] == [[ours, "1"], [timms, "1"]]
    assert rows[0][4] == "1.00"  # beside itself


def test_peers_shares_the_images_out(tmp_path):
    import peers

    sources = peers.Sources(tmp_path, 5, 32)
    halves = [sorted(file.name for file in part.iterdir()) for part in sources(5, 2, tar=False)]
    assert halves == [["00000.jpg", "00001.jpg"], ["00002.jpg", "00003.jpg", "00004.jpg"]]
    with tarfile.open(sources(5, 2, tar=True)[0]) as tar:
        assert tar.getnames() == halves[0]


def test_peers_tells_the_speed_from_the_start(monkeypatch, capsys):
    """One job takes 2 s and 10 ms an image, the other 3 s and 25 ms."""
    import peers

    ways = [peers.ours("pcl_facecycle"), peers.timm_script("pcl_facecycle")]
    networks = {"pcl_facecycle": peers.Network(64, 1, 0.8, 128)}
    costs = {ways[0].name: (2, 0.010), ways[1].name: (3, 0.025)}
    comparison = peers.Comparison(None, networks, 100, 1000)
    monkeypatch.setattr(
        comparison,
        "job",
        lambda way, count, *_, **__: (costs[way.name][0] + costs[way.name][1] * count, 2 * count, 500),
    )
    comparison.rows(ways, 1, 1, 160)
    rows = last_table("|---\n" + capsys.readouterr().out)
    assert [row[3:] for row in rows] == [
        ["100", "1.00", "2000.00", "80 (50 %)", "2.0", "500"],
        ["40", "2.50", "2000.00", "32 (20 %)", "3.0", "500"],
    ]


def test_growth_has_a_table_for_each_kind_and_a_row_a_count(at_once, capsys):
    import growth

    growth.main(["--counts", "2", "--images", "3", "--dtype", "float32"])
    text = capsys.readouterr().out
    names = [line.split()[1] for line in text.splitlines() if line.startswith(("| start-up", "| 2 "))]
    assert names == ["start-up", "2"] * len(growth.COUNTS)


def test_growth_finds_the_power():
    import growth

    counts = np.array([10, 100, 1000])
    assert growth.exponent(counts, counts * 0.7) == "1.00"
    assert growth.exponent(counts, counts**1.5) == "1.50"
    assert growth.exponent(counts, counts * 1e-4) == "too short to tell"


def test_search_has_a_row_for_each_part_and_the_ratio(tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")
    import search

    sizes = ["--rows", "9000", "--dimension", "8", "--queries", "3", "--rounds", "1"]
    search.main([*sizes, "--folder", str(tmp_path / "t")])
    rows = last_table(capsys.readouterr().out)
    parts = ["pyarrow reads", "matrix product", "facepcl.search", "search / (reading + product)"]
    assert [row[0] for row in rows] == parts
    assert len(list((tmp_path / "t").iterdir())) == 2  # 8,192 rows and the rest


def test_decoders_differ_by_rounding_at_full_scale(capsys):
    import decode

    decode.main(["--sides", "112", "--seconds", "0.001"])
    rows = {row[1]: row[2:] for row in last_table(capsys.readouterr().out)}
    assert {name: row[2] for name, row in rows.items()}["Pillow"] == "0"
    assert int(rows["torchvision"][2]) <= 1


def test_a_job_is_what_a_command_and_all_it_starts_take():
    import jobs

    hold = "import time; b = b'x' * 100_000_000; time.sleep(0.6)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    spent = jobs.run([sys.executable, "-c", child], look=0.1)
    assert spent.wall >= 0.6
    assert 100 < spent.memory < 200  # the block of 100 MB and two Pythons
    assert 0 < spent.cpu < spent.wall * 2


def test_a_job_of_several_processes_has_a_core_for_each(tmp_path):
    import jobs

    told = "len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS']"
    write = f"import os, sys; print({told}, file=open(sys.argv[1], 'w'))"
    files = [tmp_path / "0", tmp_path / "1"]
    jobs.run(*([sys.executable, "-c", write, file] for file in files), own_core=True)
    assert [file.read_text().split() for file in files] == [["1", "1"]] * 2


def test_a_job_that_fails_says_why():
    import jobs

    with pytest.raises(SystemExit, match="no such luck"):
        jobs.run([sys.executable, "-c", "raise RuntimeError('no such luck')"])


def test_gpu_has_a_row_for_each_check_and_fails_if_one_does(monkeypatch, capsys):
    """On the CPU; a check that raises does not keep the next from running."""
    import gpu

    def broken(bench):
        """Ends in an error."""
        yield "one thing holds"
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu, "MODELS", ("pcl_facecycle",))
    monkeypatch.setattr(gpu, "CHECKS", (broken, gpu.embeddings, gpu.analysis, gpu.out_of_memory))
    assert gpu.main(["--device", "cpu"]) == 1
    rows = {row[0]: row[1] for row in last_table(capsys.readouterr().out)}
    assert rows["broken"] == "one thing holds; **FAILED**: RuntimeError: no kernel image"
    assert rows["embeddings"].startswith("pcl_facecycle float32: cosine 1.0000")
    assert "angles differ by at most 0.000 degrees" in rows["analysis"]
    assert rows["out_of_memory"].startswith("skipped: only CUDA")


def test_gpu_trains_every_method_and_leaves_out_what_does_not_fit_into_the_time(monkeypatch, capsys):
    import gpu

    monkeypatch.setattr(gpu, "DTYPES", {"bfloat16": gpu.DTYPES["bfloat16"]})
    words = ["--device", "cpu", "--steps", "2", "--images", "16", "--rounds", "1"]
    assert gpu.main([*words, "--only", "pretraining"]) == 0
    assert gpu.main([*words, "--minutes", "0"]) == 0
    text = capsys.readouterr().out
    (pretraining,) = last_table(text[: text.rindex("cpu; ")])
    assert [part.split(":")[0] for part in pretraining[1].split("; ")] == [
        "pcl bfloat16",
        "pcl-relative bfloat16",
        "simclr bfloat16",
        "labels bfloat16",
    ]
    assert {row[1] for row in last_table(text)} == {"skipped: no time left"}


def test_zoo_has_a_row_for_each_dtype_and_batch_size(monkeypatch, tmp_path, capsys):
    import zoo

    monkeypatch.setattr(zoo, "BATCHES", (2,))
    zoo.main(["--models", "pcl_resnet18", "--rounds", "1", "--out", str(tmp_path)])
    (table,) = tmp_path.glob("infer-*.csv")
    assert capsys.readouterr().out == f"wrote {table}\n"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["dtype"], row["infer_batch_size"]) for row in rows] == [("float32", "2"), ("bfloat16", "2")]
    for row in rows:
        assert (row["infer_img_size"], row["param_count"]) == ("96", "11.6")
        rate, milliseconds = float(row["infer_samples_per_sec"]), float(row["infer_step_time"])
        assert rate == pytest.approx(2000 / milliseconds, rel=0.01)  # both are rounded


def test_probe_compares_the_parts_and_the_whole(at_once, capsys):
    import probe

    probe.main(["--train", "42", "--test", "14"])
    rows = last_table(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["features", "start-up, selection, score and interval", "whole"]


def test_parts_has_a_row_for_each_part_and_command(at_once, detector, capsys, monkeypatch):
    import parts  # after the fixture has asked for OpenCV

    monkeypatch.setattr(parts, "run", at_once)
    monkeypatch.setattr(parts, "milliseconds", lambda work, photos: [work(), 1.0][1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    parts.main(["--detector", str(detector), "--few", "1", "--many", "2"])
    rows = last_table(capsys.readouterr().out)
    assert [row[0].split(",")[0] for row in rows] == [
        "decode",
        "find faces",
        "crops of 112 px",
        "crops as JPEG",
        "network",
        "heads and identity",
        "facepcl align",
        "facepcl analyze",
    ]
