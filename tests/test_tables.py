"""Tables of embeddings: whole or not there, and aware of their space."""

import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from facepcl.errors import MissingPath, OptionError, TableError
from facepcl.tables import Embeddings, Row, read_embeddings, similarity, table_writer

META = {"dimension": 3, "model": "m", "branch": "face", "pool": "code", "space": "abc"}
FORMATS = ("parquet", "npz", "csv")
each_format = pytest.mark.parametrize("kind", FORMATS)


def rows(count):
    random = np.random.default_rng(0)
    for i in range(count):
        if i % 3 == 1:
            yield Row(f"p/ü {i}.jpg", i, error='damaged: "why", he asked')
        else:
            yield Row(f"p/ü {i}.jpg", i, None, 10 + i, 20, random.normal(size=3).astype(np.float32))


def write(path, count=5):
    with table_writer(path, META) as append:
        for row in rows(count):
            append(row)
    return path


@each_format
@pytest.mark.parametrize("count", [0, 1, 5, 2500])
def test_what_is_written_is_read_back(tmp_path, kind, count):
    table = read_embeddings(write(tmp_path / f"t.{kind}", count))
    wanted = list(rows(count))
    assert table.paths == [row.path for row in wanted]
    assert table.errors == [row.error for row in wanted]
    assert table.meta == META
    assert table.vectors.shape == (count, 3)
    assert table.vectors.dtype == np.float32
    for vector, row in zip(table.vectors, wanted, strict=True):
        if row.vector is None:
            assert np.isnan(vector).all()
        else:
            assert (vector == row.vector).all()  # to the bit: nine digits hold a float32


@each_format
def test_an_interruption_leaves_nothing_behind(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    path.write_bytes(b"what was there before")

    def interrupted():
        with table_writer(path, META) as append:
            append(next(rows(1)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_parquet_keeps_errors_as_nulls(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(write(tmp_path / "t.parquet"))
    assert str(table.schema.field("embedding").type) == "list<element: float>"
    assert table["embedding"].null_count == 2
    assert table["error"].null_count == 3


def test_csv_is_read_by_any_reader(tmp_path):
    import csv

    with write(tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["path", "index", "error", "width", "height", "e0", "e1", "e2"]
    assert lines[1]["e0"] == "nan"


def test_an_unknown_format_names_the_known_ones(tmp_path):
    with (
        pytest.raises(OptionError, match=r"\.parquet, \.npz, \.csv"),
        table_writer(tmp_path / "t.xlsx", META),
    ):
        pass


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingPath, match="nowhere"), table_writer(tmp_path / "nowhere/t.npz", META):
        pass


@each_format
def test_a_file_that_is_no_table_is_an_error(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    path.write_bytes(b"PK\x03\x04 not a table")
    with pytest.raises(TableError, match=path.name):
        read_embeddings(path)


def test_similarity_is_the_cosine():
    x, y = np.array([[1.0, 0], [1, 1]]), np.array([[2.0, 0], [0, 3], [np.nan, 0]])
    found = similarity(x, y)
    assert np.allclose(found[:, :2], [[1, 0], [0.5**0.5, 0.5**0.5]])
    assert np.isnan(found[:, 2]).all()


def test_tables_of_different_spaces_do_not_compare():
    a, b = (Embeddings(np.ones((1, 3)), ["x"], [None], {**META, "space": s}) for s in ("abc", "def"))
    with pytest.raises(TableError, match=r"abc.*def"):
        similarity(a, b)
    assert similarity(a, a)[0, 0] == pytest.approx(1)


@each_format
@pytest.mark.parametrize("part", [0, 0.66])
def test_a_table_cut_off_is_an_error(tmp_path, kind, part):
    path = write(tmp_path / f"t.{kind}")
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(TableError, match=path.name):
        read_embeddings(path)


@each_format
def test_text_that_is_not_utf8_does_not_stop_the_writing(tmp_path, kind):
    with table_writer(tmp_path / f"t.{kind}", META) as append:
        append(Row("a\udcff.jpg", 0, "bad \udcff"))
    table = read_embeddings(tmp_path / f"t.{kind}")
    assert table.paths[0].encode("utf-8")
    assert table.errors[0].startswith("bad")


@each_format
def test_a_killed_process_leaves_no_table(tmp_path, kind):
    code = f"""
import os, signal
from facepcl.tables import Row, table_writer
with table_writer({str(tmp_path / "t")!r} + ".{kind}", {META!r}) as append:
    for index in range(2000):
        append(Row("a.jpg", index, "bad"))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / f"t.{kind}").exists()


def test_reading_parquet_takes_little_more_memory_than_its_vectors(tmp_path):
    """As Python numbers, the vectors took 24 bytes and a pointer each: 13 times their size."""
    pytest.importorskip("pyarrow")
    meta, vector = {**META, "dimension": 1000}, np.random.default_rng(0).normal(size=1000).astype(np.float32)
    with table_writer(tmp_path / "t.parquet", meta) as append:
        for index in range(5000):
            append(Row("a.jpg", index, None, 1, 1, vector))
    tracemalloc.start()
    table = read_embeddings(tmp_path / "t.parquet")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (table.vectors == vector).all()
    assert peak < 2 * table.vectors.nbytes
