"""Tables of embeddings: whole or not there, and aware of their space."""

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from facepcl.embedding import tables
from facepcl.embedding.embeddings import Embeddings, similarity
from facepcl.embedding.tables import read_embeddings, write_table
from facepcl.errors import MissingPath, OptionError, TableError

META = {"dimension": 3, "model": "m", "branch": "face", "pool": "code", "space": "abc"}
FORMATS = ("parquet", "npz", "csv")
each_format = pytest.mark.parametrize("kind", FORMATS)


def rows(count):
    """A table in which every third image is bad."""
    vectors = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    errors = ['damaged: "why", he asked' if i % 3 == 1 else None for i in range(count)]
    sizes = np.stack([10 + np.arange(count), np.full(count, 20)], 1).astype(np.int32)
    bad = np.arange(count) % 3 == 1
    vectors[bad], sizes[bad] = np.nan, 0
    return Embeddings(vectors, [f"p/ü, {i}.jpg" for i in range(count)], errors, sizes, META)


def blocks(table, size=1024):
    for i in range(0, len(table), size):
        part = slice(i, i + size)
        yield Embeddings(table.vectors[part], table.paths[part], table.errors[part], table.sizes[part], META)


def write(path, count=5):
    write_table(path, META, blocks(rows(count)), count)
    return path


@each_format
@pytest.mark.parametrize("count", [0, 1, 5, 2500])
def test_what_is_written_is_read_back(tmp_path, kind, count):
    table = read_embeddings(write(tmp_path / f"t.{kind}", count))
    wanted = rows(count)
    assert table.paths == wanted.paths
    assert table.errors == wanted.errors
    assert table.sizes.tolist() == wanted.sizes.tolist()
    assert table.meta == META
    assert table.vectors.shape == (count, 3)
    assert table.vectors.dtype == np.float32
    assert np.array_equal(table.vectors, wanted.vectors, equal_nan=True)  # nine digits hold a float32


@each_format
def test_all_but_the_vectors_can_be_read(tmp_path, kind):
    table = read_embeddings(write(tmp_path / f"t.{kind}"), vectors=False)
    assert table.vectors.shape == (5, 0)
    assert table.errors == rows(5).errors
    assert table.meta == META


def test_rows_are_numbered_and_an_error_row_has_no_vector():
    found = list(rows(4).rows(start=7))
    assert [row.index for row in found] == [7, 8, 9, 10]
    assert found[1].vector is found[1].width is None
    assert (found[2].width, found[2].height, found[2].error) == (12, 20, None)


@each_format
def test_an_interruption_leaves_nothing_behind(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    path.write_bytes(b"what was there before")

    def interrupted():
        yield rows(2000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(path, META, interrupted(), 4000)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_a_table_that_says_how_many_rows_it_has_is_not_written_without_their_number(tmp_path, kind):
    with pytest.raises(AssertionError, match="need the count of rows"):
        write_table(tmp_path / f"t.{kind}", META, [rows(5)])
    assert list(tmp_path.iterdir()) == []


def test_parquet_keeps_errors_as_nulls(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(write(tmp_path / "t.parquet"))
    assert str(table.schema.field("embedding").type) == "list<element: float>"
    assert table["embedding"][2].as_py() == rows(5).vectors[2].tolist()
    assert table["index"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["width"].null_count == 2
    assert table["embedding"].null_count == 2
    assert table["error"].null_count == 3


def test_csv_is_read_by_any_reader(tmp_path):
    import csv

    with write(tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["path", "index", "error", "width", "height", "space", "e0", "e1", "e2"]
    assert lines[1]["e0"] == "nan"


def test_a_name_with_a_newline_comes_back_from_a_csv(tmp_path):
    table = rows(2)
    table.paths[:] = ["a\nb.jpg", 'c",d.jpg']
    write_table(tmp_path / "t.csv", META, blocks(table), 2)
    assert read_embeddings(tmp_path / "t.csv").paths == table.paths


def test_an_unknown_format_names_the_known_ones(tmp_path):
    with pytest.raises(OptionError, match=r"\.parquet, \.npz, \.csv"):
        write(tmp_path / "t.xlsx")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingPath, match="nowhere"):
        write(tmp_path / "nowhere/t.npz")


@each_format
def test_a_file_that_is_no_table_is_an_error(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    path.write_bytes(b"PK\x03\x04 not a table")
    with pytest.raises(TableError, match=path.name):
        read_embeddings(path)


@pytest.mark.parametrize("given", ["a.jpg", ["a.jpg"], None, 1.0, np.zeros((2, 3, 4)), [[1], [2, 3]]])
def test_similarity_says_what_it_takes(given):
    with pytest.raises(OptionError, match=r"similarity takes embeddings, arrays .* or tables"):
        similarity(given, np.ones((1, 3)))


@pytest.mark.parametrize("given", [np.ones((2, 3)), ["t.npz"], None])
def test_read_embeddings_says_what_it_takes(given):
    with pytest.raises(OptionError, match="read_embeddings takes the path of a table or of a folder"):
        read_embeddings(given)


def test_similarity_is_the_cosine():
    x, y = np.array([[1.0, 0], [1, 1]]), np.array([[2.0, 0], [0, 3], [np.nan, 0]])
    found = similarity(x, y)
    assert np.allclose(found[:, :2], [[1, 0], [0.5**0.5, 0.5**0.5]])
    assert np.isnan(found[:, 2]).all()


def test_tables_of_several_codes_are_compared_by_identity():
    columns = {name: {"dimension": 2, "space": name} for name in ("face", "identity")}
    vectors = np.array([[1.0, 0, 0, 1], [0, 1, 0, 2]])
    table = Embeddings(vectors, ["a", "b"], [None] * 2, np.ones((2, 2)), {**META, "columns": columns})
    assert similarity(table, table) == pytest.approx(np.ones((2, 2)))


def test_a_table_without_its_vectors_has_no_similarities():
    table = Embeddings(np.ones((1, 0)), ["x"], [None], np.ones((1, 2)), META)
    with pytest.raises(OptionError, match="read without its vectors"):
        similarity(table, table)


def test_a_table_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("path\n")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "t.csv")

    monkeypatch.setitem(tables._READERS, ".csv", refuse)
    with pytest.raises(PermissionError):
        read_embeddings(tmp_path / "t.csv")


def test_tables_of_different_spaces_do_not_compare():
    one = np.ones((1, 3)), ["x"], [None], np.ones((1, 2))
    a, b = (Embeddings(*one, {**META, "space": space}) for space in ("abc", "def"))
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
def test_a_name_that_is_not_utf8_is_escaped(tmp_path, kind):
    table = rows(1)
    table.paths, table.errors = ["a\udcff.jpg"], ["bad \udcff"]
    write_table(tmp_path / f"t.{kind}", META, [table], 1)
    found = read_embeddings(tmp_path / f"t.{kind}")
    assert found.paths == [r"a\xff.jpg"]
    assert found.errors == [r"bad \xff"]


def test_a_csv_cut_off_at_the_end_of_a_line_is_an_error(tmp_path):
    path = write(tmp_path / "t.csv")
    path.write_bytes(b"\r\n".join(path.read_bytes().split(b"\r\n")[:-2]) + b"\r\n")
    with pytest.raises(TableError, match="4 rows of 5"):
        read_embeddings(path)


def test_a_csv_whose_description_did_not_follow_is_no_table_of_the_former_space(tmp_path, monkeypatch):
    """Killed between the two files: the new vectors must not be read as of the old space."""
    path = write(tmp_path / "t.csv")

    def killed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("facepcl.embedding.tables.json.dumps", killed)
    with pytest.raises(KeyboardInterrupt):
        write_table(path, {**META, "branch": "pose", "space": "xyz"}, blocks(rows(5)), 5)
    with pytest.raises(TableError, match=r"is not a table of facepcl, or t\.csv\.meta\.json is missing"):
        read_embeddings(path)


@each_format
def test_a_table_may_lie_in_a_folder_whose_name_is_not_utf8(tmp_path, kind):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    path = write(folder / f"t.{kind}")
    assert read_embeddings(path).paths == read_embeddings(write(tmp_path / f"t.{kind}")).paths


# -- what other programs make of a table


@pytest.fixture
def original(tmp_path):
    """A Parquet table, and changed(edit) -> the path of what another program wrote of it."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(write(tmp_path / "t.parquet", 2500))

    def changed(edit, keep_meta=True):
        found = edit(pa, table)
        parquet.write_table(
            found if keep_meta else found.replace_schema_metadata(None), tmp_path / "x.parquet"
        )
        return tmp_path / "x.parquet"

    return changed


def as_type(pa, table, name, kind):
    return table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind(pa)))


def assert_same(found, wanted):
    assert (found.paths, found.errors) == (wanted.paths, wanted.errors)
    assert found.sizes.tolist() == wanted.sizes.tolist()
    assert np.array_equal(found.vectors, wanted.vectors, equal_nan=True)


@pytest.mark.parametrize(
    "edit",
    [
        lambda pa, table: table.select(table.column_names[::-1]),
        lambda pa, table: as_type(pa, table, "embedding", lambda pa: pa.large_list(pa.float64())),
        lambda pa, table: as_type(pa, table, "embedding", lambda pa: pa.list_(pa.float32(), 3)),
        lambda pa, table: as_type(pa, table, "path", lambda pa: pa.large_string()),
        lambda pa, table: as_type(pa, table, "error", lambda pa: pa.dictionary(pa.int32(), pa.string())),
        lambda pa, table: as_type(pa, table, "width", lambda pa: pa.float64()),  # as pandas has it for nulls
        lambda pa, table: table.drop_columns(["space", "index"]),
    ],
    ids=[
        "order",
        "large lists of doubles",
        "arrays",
        "large strings",
        "dictionary",
        "widths",
        "fewer columns",
    ],
)
def test_a_parquet_table_is_read_whatever_types_and_order_its_columns_have(original, edit):
    assert_same(read_embeddings(original(edit)), rows(2500))


def test_a_table_that_lost_its_metadata_says_how_to_pass_them_and_is_read_with_them(tmp_path, original):
    path = original(lambda pa, table: table, keep_meta=False)
    with pytest.raises(TableError, match=r"x\.parquet has no metadata.*read_embeddings\('x\.parquet', meta="):
        read_embeddings(path)
    assert_same(read_embeddings(path, meta=read_embeddings(tmp_path / "t.parquet").meta), rows(2500))


@pytest.mark.parametrize("program", ["pandas", "duckdb", "polars"])
def test_rows_that_another_program_selected_are_read_with_the_metadata_of_all(tmp_path, original, program):
    library = pytest.importorskip(program)
    source, out = str(tmp_path / "t.parquet"), str(tmp_path / "x.parquet")
    if program == "duckdb":
        library.sql(f"copy (select * from '{source}' where index < 900) to '{out}'")
    elif program == "pandas":
        library.read_parquet(source).query("index < 900").to_parquet(out)
    else:
        library.read_parquet(source).head(900).write_parquet(out)
    assert_same(read_embeddings(out, meta=META), first(900))


def first(count):
    table = rows(2500)
    part = slice(count)
    return Embeddings(table.vectors[part], table.paths[part], table.errors[part], table.sizes[part], META)


def test_columns_that_were_left_out_are_named_unless_rows_do_without(original):
    found = read_embeddings(original(lambda pa, table: table.select(["path", "embedding"])))
    assert [error is None for error in found.errors] == [error is None for error in rows(2500).errors]
    assert found.sizes.tolist() == [[0, 0]] * 2500  # unknown
    with pytest.raises(
        TableError, match=r"x\.parquet is not a table of embeddings \(its columns are path, error"
    ):
        read_embeddings(original(lambda pa, table: table.select(["path", "error"])))


def test_of_several_branches_one_may_be_kept_alone(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"face": {"dimension": 1, "space": "f"}, "pose": {"dimension": 2, "space": "p"}}
    meta = {**META, "branch": "face,pose", "columns": columns}
    table = rows(5)
    write_table(tmp_path / "t.parquet", meta, [table], 5)
    kept = parquet.read_table(tmp_path / "t.parquet", columns=["path", "error", "space", "embedding_pose"])
    parquet.write_table(kept, tmp_path / "x.parquet")
    found = read_embeddings(tmp_path / "x.parquet")
    assert (found.meta["branch"], found.meta["space"], found.meta["dimension"]) == ("pose", "p", 2)
    assert np.array_equal(found.vectors, table.vectors[:, 1:], equal_nan=True)


def test_rows_of_two_spaces_are_no_table(tmp_path, original):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "o.parquet", {**META, "space": "other"}, [rows(5)], 5)
    other = parquet.read_table(tmp_path / "o.parquet")
    with pytest.raises(TableError, match=r"x\.parquet has rows of the space other.* has the space abc"):
        read_embeddings(original(lambda pa, table: pa.concat_tables([table, other])))


def test_rows_of_two_spaces_are_no_csv(tmp_path):
    other = write(tmp_path / "t.csv").read_text("utf-8").replace("abc", "other")
    write_table(tmp_path / "t.csv", META, [rows(5)], 5)
    with (tmp_path / "t.csv").open("a", encoding="utf-8") as file:
        file.write(other.partition("\n")[2])
    with pytest.raises(TableError, match=r"t\.csv has rows of the space other.* has the space abc"):
        read_embeddings(tmp_path / "t.csv", meta=META)


def test_rows_of_two_widths_are_no_table(tmp_path, original):
    parquet = pytest.importorskip("pyarrow.parquet")
    wide = Embeddings(np.ones((3, 6), np.float32), ["a"] * 3, [None] * 3, np.ones((3, 2), np.int32), META)
    write_table(tmp_path / "w.parquet", {**META, "dimension": 6}, [wide], 3)
    other = parquet.read_table(tmp_path / "w.parquet")
    with pytest.raises(TableError, match=r"x\.parquet has rows with 6 numbers in embedding.* says 3"):
        read_embeddings(original(lambda pa, table: pa.concat_tables([table, other])))


def test_metadata_of_another_space_are_refused(tmp_path):
    with pytest.raises(
        TableError, match=r"t\.npz has the space m face/code \(abc\), not m pose/code \(xyz\)"
    ):
        read_embeddings(write(tmp_path / "t.npz"), meta={**META, "branch": "pose", "space": "xyz"})
    with pytest.raises(OptionError, match="meta is the metadata of a table"):
        read_embeddings(write(tmp_path / "t.npz"), meta="t.npz")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda text: text.replace(",", ";").encode(), "no column path in the first line, 'path;index"),
        (lambda text: text.encode("cp1252"), "'utf-8' codec can't decode"),
        (lambda text: text.encode("utf-16"), "'utf-8' codec can't decode"),
        (lambda text: text.replace("e2", "x").encode(), "no column e2"),
        (lambda text: text.replace("0.", '"0,5"').encode(), "11 cells instead of 9 in line 2"),
    ],
    ids=["semicolons", "cp1252", "utf-16", "columns", "decimal commas"],
)
def test_a_csv_that_a_spreadsheet_saved_is_one_sentence(tmp_path, edit, said):
    path = write(tmp_path / "t.csv")
    path.write_bytes(edit(path.read_bytes().decode()))
    with pytest.raises(TableError, match=rf"t\.csv was cut off or rewritten \({said}.*comma-separated UTF-8"):
        read_embeddings(path)


def test_a_csv_with_a_mark_and_columns_in_another_order_is_read(tmp_path):
    import csv

    path = write(tmp_path / "t.csv")
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line[::-1] for line in csv.reader(file)]
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["" if cell == "nan" else cell for cell in line] for line in lines])
    assert_same(read_embeddings(path), rows(5))


def test_one_long_reason_or_path_does_not_widen_the_other_rows_of_an_npz(tmp_path):
    """An array of strings has the width of its longest one in all rows."""
    table = rows(2000)
    table.paths[7], table.errors[1] = "p/" * 2000, "damaged " * 500
    write_table(tmp_path / "t.npz", META, blocks(table), 2000)
    assert (tmp_path / "t.npz").stat().st_size < 200_000
    assert_same(read_embeddings(tmp_path / "t.npz"), table)


def test_an_npz_of_an_earlier_version_is_read(tmp_path):
    table = rows(5)
    texts = {"paths": np.array(table.paths), "errors": np.array([error or "" for error in table.errors])}
    np.savez(tmp_path / "t.npz", vectors=table.vectors, sizes=table.sizes, meta=json.dumps(META), **texts)
    assert_same(read_embeddings(tmp_path / "t.npz"), table)


def test_a_folder_that_another_program_has_rewritten_may_have_fewer_tables(tmp_path):
    dataset = pytest.importorskip("pyarrow.dataset")
    (tmp_path / "e").mkdir()
    for number in range(3):
        write_table(tmp_path / f"e/{number:08d}-files.parquet", {**META, "shards": 3}, [rows(5)], 5)
    dataset.write_dataset(dataset.dataset(tmp_path / "e"), tmp_path / "one", format="parquet")
    assert len(read_embeddings(tmp_path / "one")) == 15
    (tmp_path / "e/00000001-files.parquet").unlink()
    with pytest.raises(TableError, match="lacks 1 of its 3 shards"):
        read_embeddings(tmp_path / "e")


def test_hidden_files_in_a_folder_of_tables_are_no_tables(tmp_path):
    """macOS puts ._NAME beside a NAME on other file systems, Spark _SUCCESS and _metadata."""
    write(tmp_path / "0.parquet")
    for name in ("._0.parquet", ".DS_Store", "_SUCCESS", "_metadata"):
        (tmp_path / name).write_bytes(b"not a table")
    assert_same(read_embeddings(tmp_path), rows(5))


@each_format
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_leaves_no_table(tmp_path, kind):
    code = f"""
import os, signal
import numpy as np
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.tables import write_table
def blocks():
    yield Embeddings(np.ones((99, 3)), ["a"] * 99, [None] * 99, np.ones((99, 2), np.int32), {{}})
    os.kill(os.getpid(), signal.SIGKILL)
write_table({str(tmp_path / "t")!r} + ".{kind}", {META!r}, blocks(), 4000)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / f"t.{kind}").exists()


def test_a_csv_is_read_without_all_of_its_text(tmp_path):
    """Which takes twenty times the memory of the vectors; these are there twice when they are joined."""
    meta = {**META, "dimension": 1000}
    vectors = np.random.default_rng(0).normal(size=(400, 1000)).astype(np.float32)
    sizes = np.ones((400, 2), np.int32)
    write_table(tmp_path / "t.csv", meta, [Embeddings(vectors, ["a"] * 400, [None] * 400, sizes, meta)], 400)
    tracemalloc.start()
    table = read_embeddings(tmp_path / "t.csv")
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (table.vectors == vectors).all()
    assert read < 3 * vectors.nbytes


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_writing_and_reading_take_little_more_memory_than_the_vectors(tmp_path, kind):
    """As Python numbers, the vectors took 24 bytes and a pointer each: 13 times their size."""
    meta = {**META, "dimension": 1000}
    vectors = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    block = Embeddings(vectors, ["a.jpg"] * 1000, [None] * 1000, np.ones((1000, 2), np.int32), meta)
    tracemalloc.start()
    write_table(tmp_path / f"t.{kind}", meta, (block for _ in range(5)), 5000)
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    table = read_embeddings(tmp_path / f"t.{kind}")
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (table.vectors.reshape(5, 1000, 1000) == vectors).all()
    assert written < 4 * vectors.nbytes  # a block on its way, not the whole table
    assert read < 2 * table.vectors.nbytes
