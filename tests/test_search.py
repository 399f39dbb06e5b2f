"""Search: exact, in order, in constant memory, in the table's own space; and what it draws and prints."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.files import FACES, UNREADABLE, break_drive, pack, photo_of
from PIL import Image

import facepcl
from facepcl.cli import main
from facepcl.embedding import nearest
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.tables import write_table
from facepcl.errors import MissingExtra, MissingPath, OptionError, TableError, WeightsError
from facepcl.images.face import FACE_COLUMNS
from facepcl.models.io import save_encoder
from facepcl.utils.futures import side_by_side

WIDTH = 6
META = {"dimension": WIDTH, "model": "m", "branch": "face", "pool": "code", "space": "abc"}
FORMATS = ("parquet", "npz", "csv")


def random_rows(count, seed=0, meta=META):
    """Rows of which each seventh has an error, and each fifth the direction of the row before it."""
    vectors = np.random.default_rng(seed).normal(size=(count, meta["dimension"])).astype(np.float32)
    vectors[5::5] = 2 * vectors[4 : count - 1 : 5]
    errors = ["damaged" if i % 7 == 3 else None for i in range(count)]
    vectors[3::7] = np.nan
    sizes = np.full((count, 2), 112, np.int32)
    return Embeddings(vectors, [f"faces/{i}.jpg" for i in range(count)], errors, sizes, meta)


def part(table, rows):
    vectors, sizes = table.vectors[rows], table.sizes[rows]
    return replace(table, vectors=vectors, paths=table.paths[rows], errors=table.errors[rows], sizes=sizes)


def write(path, table, group=16):
    """A table in row groups of 16."""
    blocks = [part(table, slice(i, i + group)) for i in range(0, len(table), group)]
    write_table(path, table.meta, blocks, len(table))
    return path


def write_folder(folder, table, rows=100):
    folder.mkdir()
    for i in range(0, len(table), rows):
        write(folder / f"{i:08d}-files.parquet", part(table, slice(i, i + rows)))
    return folder


def naive(query, table, top, leave=()):
    """Row numbers and cosines by float64, all compared; of equal ones the lower number first."""
    x, y = query.astype(float), table.vectors.astype(float)
    cosines = y @ x / np.linalg.norm(x) / np.linalg.norm(y, axis=1)
    rows = [i for i in range(len(table)) if table.errors[i] is None and i not in leave]
    rows.sort(key=lambda i: (-round(cosines[i], 6), i))  # doubled vectors have equal cosines, up to rounding
    return [(i, cosines[i]) for i in rows[:top]]


def same(matches, wanted):
    found = [match.row for match in matches]
    assert found == [row for row, _ in wanted]
    assert [match.similarity for match in matches] == pytest.approx([c for _, c in wanted], abs=1e-6)
    return True


@pytest.fixture
def _small_blocks(monkeypatch):
    """Blocks of 64 rows, the least, so that a few hundred rows are read in several stretches."""
    monkeypatch.setattr(nearest, "BLOCK_NUMBERS", 1)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("kind", [*FORMATS, "folder", "memory"])
def test_the_nearest_are_those_of_all_cosines_in_order(tmp_path, kind):
    table = random_rows(1300)
    place = {
        "folder": lambda: write_folder(tmp_path / "t", table),
        "memory": lambda: table,
    }.get(kind, lambda: write(tmp_path / f"t.{kind}", table))()
    queries = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    results = facepcl.search(queries, place, top=12, rows=[20, 4])
    assert [result.query for result in results] == [f"vector {i}" for i in range(5)] + [
        "faces/20.jpg",
        "faces/4.jpg",
    ]
    for query, result in zip(queries, results, strict=False):
        assert same(result.matches, naive(query, table, 12))
    for row, result in zip((20, 4), results[5:], strict=True):
        assert result.row == row
        assert same(result.matches, naive(table.vectors[row], table, 12, leave=[row]))
    assert results[5].matches[0].path == f"faces/{results[5].matches[0].row}.jpg"


def test_equal_cosines_are_in_the_order_of_the_table_whatever_comes_first():
    vectors = np.repeat(np.eye(2, 4, dtype=np.float32), 50, axis=0)
    for order in ((0, 40), (40, 0)):
        best = nearest.Nearest(vectors[:1], 45)
        for start in order:
            rows = np.arange(start, start + (60 if start else 40))
            best.add(rows, vectors[rows])
        assert [row for row, _ in best.found(0)] == list(range(45))


def test_many_queries_are_compared_in_groups(monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK_NUMBERS", 300)  # three queries with a hundred rows
    table = random_rows(100)
    queries = np.random.default_rng(1).normal(size=(11, WIDTH)).astype(np.float32)
    for query, result in zip(queries, facepcl.search(queries, table, top=3), strict=True):
        assert same(result.matches, naive(query, table, 3))


def test_vectors_that_are_not_finite_or_have_no_length_match_nothing():
    table = random_rows(4)
    table.errors[:] = [None] * 4
    table.vectors[0], table.vectors[1], table.vectors[3] = np.nan, 0, 1
    [result] = facepcl.search(table.vectors[2:3], table)
    assert {match.row for match in result.matches} == {1, 2, 3}
    assert next(m.similarity for m in result.matches if m.row == 1) == 0


def test_matches_below_the_least_similarity_are_left_out():
    table = random_rows(200)
    [result] = facepcl.search(table.vectors[:1], table, top=200, min_similarity=0.5)
    wanted = [found for found in naive(table.vectors[0], table, 200) if found[1] >= 0.5]
    assert same(result.matches, wanted)
    assert 3 < len(wanted) < 100


def test_settings_of_torch_around_a_search_change_nothing():
    table = random_rows(50)
    [wanted] = facepcl.search((), table, rows=[0])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert facepcl.search((), table, rows=[0]) == [wanted]
    finally:
        torch.set_float32_matmul_precision(before)


def test_streams_are_read_side_by_side_and_one_piece_ahead():
    asked = []

    def stream(name):
        for number in range(3):
            asked.append((name, number))
            yield name, number

    pieces = side_by_side(map(stream, "abcd"), 1)
    assert next(pieces) == ("a", 0)
    assert set(asked) <= {("a", 0), ("b", 0), ("a", 1)}
    rest = list(pieces)
    assert sorted(rest) == sorted((name, n) for name in "abcd" for n in range(3) if (name, n) != ("a", 0))
    for name in "abcd":
        assert [n for of, n in rest if of == name] == sorted(n for of, n in rest if of == name)


def test_only_row_groups_with_matches_are_read_again(tmp_path, monkeypatch):
    """Of a table with many rows, paths and faces of all would not fit into memory."""
    from facepcl.embedding import scan

    table = random_rows(300)
    read, read_parquet = [], scan.read_parquet
    monkeypatch.setattr(scan, "read_parquet", lambda *a: read.append(read_parquet(*a)) or read[-1])
    [result] = facepcl.search(table.vectors[:1], write_folder(tmp_path / "t", table), top=5)
    assert sorted(path for rows in read for path in rows.paths) == sorted(m.path for m in result.matches)


# tables


def two_codes(names=("face", "pose"), count=40):
    columns = {name: {"dimension": 3, "space": f"of-{name}"} for name in names}
    return random_rows(count, meta={**META, "branch": ",".join(names), "columns": columns})


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_identity_is_compared_of_several_codes(tmp_path, kind):
    table = two_codes(("shared", "identity"))
    path = write(tmp_path / f"t.{kind}", table)
    [result] = facepcl.search((), path, rows=[0])
    assert same(result.matches, naive(table.vectors[0, 3:], table.branch("identity"), 10, leave=[0]))
    [other] = facepcl.search((), path, rows=[0], branch="shared")
    assert same(other.matches, naive(table.vectors[0, :3], table.branch("shared"), 10, leave=[0]))


def test_several_codes_without_identity_are_an_error_that_names_them(tmp_path):
    path = write(tmp_path / "t.parquet", two_codes())
    with pytest.raises(OptionError, match="has the codes face, pose but none for identity; choose one with"):
        facepcl.search((), path, rows=[0])
    with pytest.raises(OptionError, match="has face, pose, not 'shared'"):
        facepcl.search((), path, rows=[0], branch="shared")


def test_tables_of_several_spaces_are_not_searched_as_one(tmp_path):
    folder = write_folder(tmp_path / "t", random_rows(40))
    write(folder / "00000001-files.parquet", random_rows(4, meta={**META, "space": "def"}))
    with pytest.raises(TableError, match=r"different spaces: .*abc.*def.*one by one"):
        facepcl.search((), folder, rows=[0])


def test_a_folder_that_lacks_shards_is_refused(tmp_path):
    folder = write_folder(tmp_path / "t", random_rows(40, meta={**META, "shards": 3}))
    with pytest.raises(TableError, match="lacks 2 of its 3 shards"):
        facepcl.search((), folder, rows=[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingPath, match="no tables in this folder"):
        facepcl.search((), tmp_path / "empty", rows=[0])


def test_a_table_that_another_program_rewrote_is_searched(tmp_path):
    """As pandas and polars write it: doubles, one row group, other columns, no metadata."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = random_rows(90)
    vectors = [None if error else v.tolist() for v, error in zip(table.vectors, table.errors, strict=True)]
    rewritten = pa.table({"embedding": vectors, "path": table.paths})
    parquet.write_table(rewritten, tmp_path / "lost.parquet")
    with pytest.raises(TableError, match="has no metadata"):
        facepcl.search((), tmp_path / "lost.parquet", rows=[0])
    kept = facepcl.read_embeddings(tmp_path / "lost.parquet", meta=META)
    parquet.write_table(
        rewritten.replace_schema_metadata({"facepcl": json.dumps(META)}), tmp_path / "kept.parquet"
    )
    wanted = naive(table.vectors[0], table, 10, leave=[0])
    for place in (kept, tmp_path / "kept.parquet"):
        assert same(facepcl.search((), place, rows=[0])[0].matches, wanted)


def test_a_damaged_table_is_one_sentence(tmp_path):
    path = write(tmp_path / "t.parquet", random_rows(40))
    data = bytearray(path.read_bytes())
    data[:2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(TableError, match=r"t\.parquet is not a table of embeddings"):
        facepcl.search((), path, rows=[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"nothing to search for: name a photo, or a row with --row N"),
        ({"rows": [40]}, "this table has no row 40: its 40 rows are numbered from 0"),
        ({"rows": [-1]}, "has no row -1"),
        ({"rows": ["a"]}, "a row is a whole number, not 'a'"),
        ({"rows": 40}, "has no row 40"),
        ({"rows": None}, "a row is a whole number, not None"),
        ({"rows": [0], "top": 0}, "top must be a whole number of at least 1, not 0"),
        ({"rows": [0], "top": 2.5}, "top must be a whole number"),
        ({"rows": [0], "min_similarity": 90}, "min_similarity 90: .* between -1 and 1"),
        ({"rows": [0], "sheet": "found.gif"}, "the name of a sheet must end in .png"),
        ({"queries": np.ones((2, 4))}, r"an array of \[2, 4\] float64, and vectors .* float \[N, 6\]"),
        ({"queries": np.ones((2, 8, 8, 3), np.uint8)}, "images are given by their paths"),
        ({"queries": [Image.new("RGB", (8, 8))]}, "a source is a path"),
        ({"queries": np.array([str(FACES[0])])}, r"does not name the weights that made it"),
        ({"queries": FACES[0]}, r"does not name the weights that made it \(a m\); name them with --model"),
        ({"queries": "nowhere.jpg"}, r"nowhere.jpg: there is no such file or folder"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(options, said):
    with pytest.raises((OptionError, MissingPath), match=said):
        facepcl.search(options.pop("queries", ()), random_rows(40), **options)


def test_a_table_without_rows_has_no_matches():
    [result] = facepcl.search(np.ones((1, WIDTH), np.float32), random_rows(0))
    assert (result.matches, result.error) == ((), None)


# photos and crops


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The sample faces, as a table of crops."""
    path = tmp_path_factory.mktemp("crops") / "faces.npz"
    facepcl.embed(list(FACES), path, dtype="float32")
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory, detector):
    """A table of the faces in three photos, and the photos."""
    folder = tmp_path_factory.mktemp("photos")
    for number, (first, count) in enumerate([(0, 1), (4, 3), (12, 1)]):
        photo_of(count, first=first).save(folder / f"photo{number}.jpg", quality=95)
    facepcl.embed(folder, folder / "faces.npz", align=True, detector=detector, dtype="float32")
    return folder


def test_a_crop_finds_itself_first_by_its_own_cosine(table, caplog):
    caplog.set_level("INFO")
    [result] = facepcl.search(FACES[5], table, top=24)
    stored = facepcl.read_embeddings(table)
    assert result.matches[0].path == str(FACES[5])
    assert len(result.matches) == 24
    cosines = facepcl.similarity(stored.vectors[5:6], stored.vectors)[0]
    for match in result.matches:
        assert match.similarity == pytest.approx(cosines[match.row], abs=1e-5)  # batches of other sizes
    assert "queries are treated as face crops" in caplog.text
    assert "comparing shared (2048 numbers) of pcl_facecycle.synth_labels" in caplog.text


def test_the_most_prominent_face_of_a_photo_is_searched_for(photos, detector, caplog):
    caplog.set_level("INFO")
    results = facepcl.search(photos / "photo1.jpg", photos / "faces.npz", detector=detector)
    [result] = results
    stored = facepcl.read_embeddings(photos / "faces.npz")
    assert result.face == next(row.face for row in stored.rows() if row.path == result.query)
    first = result.matches[0]
    assert (first.path, first.number, first.face) == (result.query, 0, result.face)
    assert first.similarity == pytest.approx(1, abs=1e-5)
    assert {match.number for match in result.matches if match.path == result.query} == {0, 1, 2}
    assert "the most prominent face of each is compared" in caplog.text


def test_a_detector_for_a_table_of_crops_says_how_to_search_with_photos(table):
    with pytest.raises(OptionError, match=r"made of face crops, .* add --no-crops \(crops=False\)"):
        facepcl.search(FACES[0], table, detector="yunet.onnx")


def test_a_photo_is_searched_for_in_a_table_of_crops(table, photos, detector, caplog):
    photo = photos / "photo0.jpg"
    [as_photo] = facepcl.search(photo, table, crops=False, detector=detector)
    assert as_photo.matches[0].path == str(FACES[0])
    assert "look like photos" not in caplog.text
    facepcl.search(photo, table)
    assert "1 of these queries look like photos" in caplog.text
    assert "add --no-crops" in caplog.text


def test_a_query_that_shows_no_face_is_a_result_that_says_so(photos, detector, tmp_path):
    Image.new("RGB", (400, 300), "teal").save(tmp_path / "sky.jpg")
    (tmp_path / "notes.jpg").write_text("no image")
    queries = [tmp_path / "sky.jpg", photos / "photo0.jpg", tmp_path / "notes.jpg"]
    empty, found, damaged = facepcl.search(queries, photos / "faces.npz", detector=detector)
    assert (empty.error, empty.matches) == ("no face found", ())
    assert found.error is None
    assert found.matches
    assert damaged.error
    with pytest.raises(MissingPath, match=r"gone\.jpg"):
        facepcl.search(tmp_path / "gone.jpg", photos / "faces.npz", detector=detector)


def test_a_row_with_an_error_is_a_result_that_says_so():
    bad, good = facepcl.search((), random_rows(40), rows=[3, 0])
    assert (bad.error, bad.row, bad.matches) == ("damaged", 3, ())
    assert good.matches


def test_a_row_without_a_face_is_a_result_without_one():
    rows = random_rows(40)
    faces = np.zeros((40, len(FACE_COLUMNS)), np.float32)
    faces[3] = np.nan
    bad, good = facepcl.search((), replace(rows, faces=faces), rows=[3, 0])
    assert (bad.error, bad.face) == ("damaged", None)
    assert good.matches[0].number == 0


def test_weights_without_a_name_are_named_and_make_the_identity_of_a_query(attribute_weights, tmp_path):
    path = tmp_path / "t.npz"
    facepcl.embed(list(FACES), path, model=attribute_weights, branch="shared,identity", dtype="float32")
    with pytest.raises(
        OptionError, match=r"weights that made it \(a pcl_facecycle\); name them with --model hf-hub"
    ):
        facepcl.search(FACES[0], path)
    [result] = facepcl.search(FACES[0], path, model=attribute_weights)
    identity = facepcl.read_embeddings(path).branch("identity").vectors
    assert result.matches[0].path == str(FACES[0])
    assert [match.similarity for match in result.matches] == pytest.approx(
        sorted(identity @ identity[0], reverse=True)[:10], abs=1e-5
    )


def test_weights_of_another_space_are_refused(table, model, tmp_path):
    stored = facepcl.read_embeddings(table)
    changed = replace(stored, meta={**stored.meta, "space": "0123456789ab"})
    with pytest.raises(
        TableError, match=r"0123456789ab.*gives.*: the weights of this name have been replaced"
    ):
        facepcl.search(FACES[0], changed)
    folder = save_encoder(model, tmp_path / "encoder")
    with pytest.raises(TableError, match=r"local-dir:.* gives .*; name the weights that made it"):
        facepcl.search(FACES[0], table, model=f"local-dir:{folder}")


def test_weights_that_are_not_there_are_one_sentence(table):
    stored = facepcl.read_embeddings(table)
    changed = replace(stored, meta={**stored.meta, "tag": "no_such_tag"})
    with pytest.raises((WeightsError, OptionError), match="no_such_tag"):
        facepcl.search(FACES[0], changed)


@pytest.mark.parametrize("made", [{"pool": "avg", "size": 96}, {"branch": "identity", "flip": True}])
def test_what_the_table_was_made_with_holds_for_queries(made):
    embedder = facepcl.FaceEmbedder(**made, dtype="float32")
    table = Embeddings(
        embedder(FACES[:6]), list(map(str, FACES[:6])), [None] * 6, np.full((6, 2), 112), embedder.meta
    )
    [result] = facepcl.search(FACES[2], table)
    assert result.matches[0].row == 2
    assert result.matches[0].similarity == pytest.approx(1, abs=1e-5)


def test_the_pose_codes_of_a_table_with_flip_are_searched_though_flip_leaves_them_alone(tmp_path):
    path = tmp_path / "t.npz"
    facepcl.embed(FACES[:6], path, branch="shared,pose", flip=True, dtype="float32")
    [result] = facepcl.search(FACES[2], path, branch="pose")
    assert result.matches[0].row == 2
    assert result.matches[0].similarity == pytest.approx(1, abs=1e-5)


# the command


def test_the_command_prints_a_table_for_each_query(table, capsys):
    assert main(["search", str(FACES[1]), "--row", "3", "--in", str(table), "--top", "2"]) == 0
    first, second = capsys.readouterr().out.rstrip("\n").split("\n\n")
    title, head, nearest_line, _ = first.splitlines()
    assert title == f"{FACES[1]}:"
    assert head.split() == ["rank", "similarity", "path"]
    assert nearest_line.split() == ["1", "1.0000", str(FACES[1])]
    assert second.splitlines()[0] == f"row 3, {FACES[3]}:"
    assert str(FACES[3]) not in "".join(second.splitlines()[1:])


def test_the_command_prints_one_json_document(photos, detector, capsys):
    command = ["search", photos / "photo1.jpg", "--in", photos / "faces.npz", "--detector", detector]
    assert main([*map(str, command), "--row", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    photo, row = document["queries"]
    assert (photo["query"], photo["row"], photo["error"]) == (str(photos / "photo1.jpg"), None, None)
    assert (row["query"], row["row"]) == (str(photos / "photo0.jpg"), 0)
    assert [match["rank"] for match in photo["matches"]] == [1, 2, 3, 4, 5]
    assert (photo["matches"][0]["row"], photo["matches"][0]["face"]) == (1, 0)
    assert len(photo["matches"][0]["box"]) == 4


def test_a_table_without_a_vector_is_told_from_one_without_a_similar_face(tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    facepcl.embed(tmp_path / "bad.jpg", tmp_path / "bad.npz", branch="identity")
    assert main(["search", str(FACES[0]), "--in", str(tmp_path / "bad.npz")]) == 0
    assert "bad.npz has no face to compare with" in capsys.readouterr().out


def test_exit_codes_tell_unread_queries_from_wrong_commands(table, tmp_path, capsys):
    (tmp_path / "notes.jpg").write_text("no image")
    assert main(["search", str(tmp_path / "notes.jpg"), str(FACES[0]), "--in", str(table)]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'notes.jpg'}: ")
    assert f"{FACES[0]}:\nrank" in said
    assert main(["search", "--row", "999", "--in", str(table)]) == 2
    assert "has no row 999" in capsys.readouterr().err
    assert main(["search", str(FACES[0]), "--in", str(tmp_path / "gone.parquet")]) == 2
    assert "there is no such table" in capsys.readouterr().err
    assert main(["search", "--row", "0", "--in", str(table), "--min-similarity", "1"]) == 0
    assert "no face found that is similar enough" in capsys.readouterr().out


# the sheet


def tile(path, x, y, side):
    with Image.open(path) as sheet:
        return np.asarray(sheet.convert("RGB"), float)[y : y + side, x : x + side]


def test_the_sheet_shows_the_query_and_what_was_found(table, tmp_path):
    from facepcl.embedding import search_sheet as drawn

    [result] = facepcl.search(FACES[5], table, sheet=tmp_path / "found.png")
    for place, match in enumerate(result.matches[:5]):
        x = drawn.LEFT + place * (drawn.TILE + drawn.GAP)
        shown = tile(tmp_path / "found.png", x, drawn.HEAD + 2 * drawn.GAP, drawn.TILE)
        with Image.open(match.path) as image:
            wanted = np.asarray(
                image.convert("RGB").resize((drawn.TILE,) * 2, Image.Resampling.BICUBIC), float
            )
        assert abs(shown - wanted).mean() < 3  # resized twice
    query = tile(tmp_path / "found.png", 2 * drawn.GAP, drawn.HEAD + 2 * drawn.GAP, drawn.QUERY)
    assert query.std() > 20


def test_the_sheet_cuts_faces_out_of_photos(photos, detector, tmp_path):
    """By the landmarks of the table: the whole photo is mostly its grey background."""
    from facepcl.embedding import search_sheet as drawn

    sheet = tmp_path / "found.png"
    facepcl.search(photos / "photo1.jpg", photos / "faces.npz", detector=detector, sheet=sheet)
    query = tile(sheet, 2 * drawn.GAP, drawn.HEAD + 2 * drawn.GAP, drawn.QUERY)
    first = tile(sheet, drawn.LEFT, drawn.HEAD + 2 * drawn.GAP, drawn.TILE)
    background = (abs(query - (90, 100, 110)).max(2) < 6).mean()
    assert background < 0.2
    smaller = query.reshape(drawn.TILE, 2, drawn.TILE, 2, 3).mean((1, 3))
    assert abs(smaller - first).mean() < 4


def test_images_that_are_gone_are_empty_tiles_with_their_names(tmp_path, monkeypatch):
    from facepcl.embedding import search_sheet as drawn

    monkeypatch.chdir(tmp_path)
    Path("kept").mkdir()
    for number, face in enumerate(FACES[:3]):
        shutil.copy(face, Path("kept") / f"{number}.jpg")
    pack(tmp_path / "shard.tar", {f"{n}.jpg": FACES[n].read_bytes() for n in (3, 4)})
    facepcl.embed(["kept", "shard.tar"], "t.npz", dtype="float32")
    Path("kept/1.jpg").unlink()
    [result] = facepcl.search((), "t.npz", rows=[0], sheet="found.png")
    for place, match in enumerate(result.matches):
        x = drawn.LEFT + place * (drawn.TILE + drawn.GAP)
        shown = tile("found.png", x, drawn.HEAD + 2 * drawn.GAP, drawn.TILE)
        assert (shown.mean() > 245) == (match.path == "kept/1.jpg"), match.path
    assert {match.path for match in result.matches} >= {"kept/1.jpg", "shard.tar/3.jpg"}


@pytest.mark.usefixtures("no_waits")
@pytest.mark.skipif(not UNREADABLE.exists(), reason="Linux")
def test_an_image_on_a_drive_that_fails_is_an_empty_tile(tmp_path, no_waits):
    from facepcl.embedding import search_sheet as drawn

    faces = [Path(shutil.copy(face, tmp_path)) for face in FACES[:3]]
    facepcl.embed(faces, tmp_path / "t.npz", dtype="float32")
    break_drive(faces[1])
    [result] = facepcl.search((), tmp_path / "t.npz", rows=[0], sheet=tmp_path / "found.png")
    for place, match in enumerate(result.matches):
        x = drawn.LEFT + place * (drawn.TILE + drawn.GAP)
        shown = tile(tmp_path / "found.png", x, drawn.HEAD + 2 * drawn.GAP, drawn.TILE)
        assert (shown.mean() > 245) == (match.path == str(faces[1]))


def test_a_sheet_of_many_queries_draws_the_first(table, tmp_path, monkeypatch):
    from facepcl.embedding import search_sheet as drawn

    monkeypatch.setattr(drawn, "LIMIT", 2)
    facepcl.search((), table, rows=[0, 1], sheet=tmp_path / "two.png")
    facepcl.search((), table, rows=[0, 1, 2], sheet=tmp_path / "three.png")
    assert Image.open(tmp_path / "two.png").size == Image.open(tmp_path / "three.png").size


# tables in memory


def test_nearest_of_a_table_are_matches_of_a_vector_or_a_row():
    table = random_rows(60)
    assert same(table.nearest(8, k=4), naive(table.vectors[8], table, 4, leave=[8]))
    query = np.ones(WIDTH)
    assert same(table.nearest(query), naive(query, table, 10))
    assert table.nearest(8, k=1)[0].path == f"faces/{table.nearest(8, k=1)[0].row}.jpg"
    assert table.nearest(query, 3) == list(
        facepcl.search(query[None].astype(np.float32), table, 3)[0].matches
    )


@pytest.mark.parametrize(
    ("query", "k", "said"),
    [
        (60, 10, "has no row 60"),
        (3, 10, r"row 3 has no embedding \(damaged\)"),
        (np.ones(4), 10, r"the query is of the shape \[4\], and vectors are \[6\]"),
        (np.ones((1, WIDTH)), 10, r"the shape \[1, 6\]"),
        (0, 0, "k must be a whole number of at least 1"),
    ],
)
def test_nearest_says_what_it_takes(query, k, said):
    with pytest.raises(OptionError, match=said):
        random_rows(60).nearest(query, k)


def test_a_vector_that_is_not_finite_says_so(tmp_path):
    path = write(tmp_path / "t.npz", random_rows(9))
    [result] = facepcl.search(np.full((1, 6), np.nan, np.float32), path)
    assert (result.matches, result.error) == ((), "the vector is not finite")
    with pytest.raises(OptionError, match="not finite"):
        random_rows(9).nearest(np.full(6, np.nan), 1)


def test_nearest_needs_the_vectors(tmp_path):
    path = write(tmp_path / "t.npz", random_rows(9))
    with pytest.raises(OptionError, match="without its vectors"):
        facepcl.read_embeddings(path, vectors=False).nearest(0)


def test_a_table_describes_itself_in_a_few_lines(table):
    text = repr(facepcl.read_embeddings(table))
    assert len(text.splitlines()) == 6
    for part_of_it in (
        "24, of which 0",
        "pcl_facecycle.synth_labels",
        "shared (2048 numbers)",
        str(FACES[0]),
    ):
        assert part_of_it in text
    assert "face (3 numbers), pose (3 numbers)" in repr(two_codes())
    assert "40, of which 6 without" in repr(random_rows(40))
    assert "None" in repr(random_rows(0))


def test_a_table_becomes_a_data_frame_as_pandas_reads_its_parquet(tmp_path):
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install 'facepcl[pandas]'")
    table = two_codes()
    frame = table.to_pandas()
    wanted = pandas.read_parquet(write(tmp_path / "t.parquet", table))
    assert list(frame.columns) == list(wanted.columns)
    assert frame["path"].tolist() == table.paths
    assert frame["error"].isna().tolist() == [error is None for error in table.errors]
    assert str(frame["width"].dtype) == "Int32"
    assert frame["width"].isna().sum() == 6
    assert np.array_equal(frame["embedding_pose"][0], table.vectors[0, 3:])
    assert frame["embedding_pose"][3] is None
    assert np.array_equal(
        np.stack(frame["embedding_face"].dropna()), table.vectors[frame["error"].isna(), :3]
    )


def test_a_data_frame_has_the_places_of_faces_and_no_vectors_that_were_not_read(photos):
    pytest.importorskip("pandas", reason="needs pandas: pip install 'facepcl[pandas]'")
    frame = facepcl.read_embeddings(photos / "faces.npz", vectors=False).to_pandas()
    assert frame["face"].tolist() == [0, 0, 1, 2, 0]
    assert (frame["right"] > frame["left"]).all()
    assert "embedding" not in frame


def test_a_data_frame_of_more_numbers_than_an_int32_counts_has_the_right_vectors():
    """Windows of one array, which take no memory: row k begins with the number k."""
    pytest.importorskip("pandas", reason="needs pandas: pip install 'facepcl[pandas]'")
    count, width = 40_000, 2**16
    assert count * width > 2**31
    vectors = np.lib.stride_tricks.sliding_window_view(np.arange(count + width - 1, dtype=np.float32), width)
    few = random_rows(2)
    meta = few.meta | {"dimension": width}
    table = replace(few, vectors=vectors, paths=["a"] * count, errors=[None] * count, meta=meta)
    frame = replace(table, sizes=np.ones((count, 2), np.int32)).to_pandas()
    assert [frame["embedding"][row][0] for row in (0, 2**15, count - 1)] == [0, 2**15, count - 1]


def test_without_pandas_the_error_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pandas is not installed; type: pip install 'facepcl\[pandas\]'"):
        random_rows(2).to_pandas()
