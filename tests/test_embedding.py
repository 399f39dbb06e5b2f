"""Images to embeddings: in order, the same whatever the batch, and a reason for every bad file."""

import copy
import io
import pickle
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from helpers.files import FACES, break_drive, put_face
from PIL import Image

import facepcl
from facepcl.cli import main
from facepcl.data import sources
from facepcl.errors import ImageError, MissingPath, OptionError, RemoteError, TableError, WeightsError
from facepcl.images.decode import decode, decode_reduced
from facepcl.images.geometry import looks_like_crop
from facepcl.images.transform import Transform
from facepcl.models.heads import Heads, HeadSpec
from facepcl.models.io import save_encoder

TOLERANCE = 1e-5  # float32: another batch size sums in another order
FLOAT32 = {"dtype": "float32"}  # auto is bfloat16 on processors with units for it


@pytest.fixture
def folder(tmp_path):
    """Eleven pictures of several sizes, formats and shapes, and three bad ones in between."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(11):
        size = (40 + 9 * i, 60)
        small = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{i:02d}.{('jpg', 'png', 'webp')[i % 3]}")
    file = io.BytesIO()
    Image.new("RGB", (300, 300)).save(file, "JPEG")
    (folder / "03-truncated.jpg").write_bytes(file.getvalue()[:-900])
    (folder / "05-empty.png").write_bytes(b"")
    (folder / "07-text.jpg").write_text("no picture")
    return folder


def close(a, b):
    return np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * np.nanmax(np.abs(b)), equal_nan=True)


@pytest.mark.parametrize("branch", ["shared", "face", "pose"])
def test_an_embedding_is_the_models_own_code_of_the_prepared_image(model, folder, branch):
    embedder = facepcl.FaceEmbedder(model, branch=branch, **FLOAT32)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with Image.open(folder / "00.jpg") as image:
        x = prepare(image.convert("RGB"))[None]
    with torch.no_grad():
        wanted = getattr(model.forward_codes(x), branch).numpy()
    assert close(embedder([folder / "00.jpg"]), wanted)


def test_concat_is_the_three_codes_in_a_row(model, folder):
    parts = [
        facepcl.FaceEmbedder(model, branch=branch, **FLOAT32)([folder / "00.jpg"])
        for branch in ("shared", "face", "pose", "concat")
    ]
    assert close(parts.pop(), np.concatenate(parts, 1))


@pytest.mark.parametrize("backend", ["eager", "trace"])
def test_identity_is_what_the_head_reads_from_the_shared_map(attribute_weights, folder, backend):
    embedder = facepcl.FaceEmbedder(attribute_weights, branch="identity", dtype="float32", backend=backend)
    found = embedder([folder / "00.jpg", folder / "01.png"])
    maps = facepcl.FaceEmbedder(attribute_weights, pool="flatten", dtype="float32")(
        [folder / "00.jpg", folder / "01.png"]
    )
    layer = facepcl.create_heads(attribute_weights)["identity"]
    wanted = torch.nn.functional.normalize(layer(torch.from_numpy(maps))).detach().numpy()
    assert found.shape == (2, 16)
    assert close(found, wanted)


def test_identity_stands_beside_other_branches_in_a_table(attribute_weights, folder, tmp_path):
    facepcl.embed(folder, tmp_path / "e.npz", model=attribute_weights, branch="shared,identity", **FLOAT32)
    table = facepcl.read_embeddings(tmp_path / "e.npz")
    assert table.meta["columns"]["identity"]["dimension"] == 16
    alone = facepcl.FaceEmbedder(attribute_weights, branch="identity", dtype="float32")
    assert table.meta["columns"]["identity"]["space"] == alone.meta["space"]


def test_the_space_of_identity_tells_heads_apart(attribute_weights, tmp_path):
    other = Heads({"identity": HeadSpec("shared", 4, "unit", 16)}, {"identity": 128 * 16})
    model = facepcl.create_model("pcl_facecycle", pretrained=True)
    folder = save_encoder(model, tmp_path / "encoder", heads=other)
    one, two = (facepcl.FaceEmbedder(n, dtype="float32") for n in (attribute_weights, f"local-dir:{folder}"))
    assert one.space("identity") != two.space("identity")
    assert one.space("shared") == two.space("shared") == facepcl.FaceEmbedder("pcl_facecycle").space("shared")


def test_identity_needs_a_head_and_has_one_pool(model, attribute_weights):
    with pytest.raises(OptionError, match=r"a module has no identity head.* give 'pcl_facecycle' or"):
        facepcl.FaceEmbedder(model, branch="identity")
    with pytest.raises(OptionError, match="leave out pool 'avg'"):
        facepcl.FaceEmbedder(attribute_weights, branch="identity", pool="avg")


@pytest.mark.parametrize(("pool", "width"), [("code", 2048), ("flatten", 2048), ("avg", 128), ("2x2", 512)])
def test_pools_have_their_widths(model, folder, pool, width):
    assert facepcl.FaceEmbedder(model, pool=pool)([folder / "00.jpg"]).shape == (1, width)


@pytest.mark.parametrize("given", [Path("faces"), Image.new("RGB", (8, 8)), np.ones((1, 3)), ["a.jpg"], None])
def test_what_is_no_model_is_told_from_one(given):
    with pytest.raises(
        OptionError, match=r"is not a model: give a name.*as in FaceEmbedder\(\)\(\[image\]\)"
    ):
        facepcl.FaceEmbedder(given)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: facepcl.create_model(Path("encoder")), "'local-dir:FOLDER', not a PosixPath"),
        (lambda: facepcl.create_heads(None), "'local-dir:FOLDER', not a NoneType"),
        (lambda: facepcl.embed("faces", None), "out must be a path, not NoneType"),
        (lambda: facepcl.align("faces", 3), "out must be a path, not int"),
        (lambda: facepcl.export.run("pcl_facecycle", None), "out must be a path, not NoneType"),
        (lambda: facepcl.hub.convert(None, "out"), "checkpoint must be a path, not NoneType"),
        (lambda: facepcl.hub.push(None, "me/encoder"), "folder must be a path, not NoneType"),
        (lambda: facepcl.probes.run("expression", None), "data must be a path, not NoneType"),
        (lambda: facepcl.create_model("pcl_facecycle", pretrained={}), "True, False or the path of a .saf"),
        (
            lambda: facepcl.FaceEmbedder(branch=["face", "pose"]),
            "branch is a name, or several as 'face,pose'",
        ),
        (lambda: facepcl.FaceEmbedder(batch_size="8"), "batch_size is a whole number, not '8'"),
        (lambda: facepcl.FaceEmbedder(size=100_000), "size must be 32 to 4096 pixels"),
        (lambda: facepcl.embed("faces", ""), "out must be a path, not an empty string"),
        (lambda: facepcl.pretrain.run("faces"), r"run takes a Config, as in run\(Config\("),
        (lambda: facepcl.FaceEmbedder(str(FACES[0])), r"\.jpg is not a model; embed images by calling"),
        (lambda: facepcl.FaceEmbedder(torch.nn.Linear(3, 3)), "Linear has no forward_features"),
        (lambda: facepcl.FaceEmbedder()(Image.new("RGB", (64, 64))), r"embedder\(\[image\]\)"),
        (lambda: facepcl.FaceEmbedder("darknet17"), "No pretrained weights exist for darknet17"),
        (lambda: facepcl.FaceEmbedder("resnet18.nobody"), r"resnet18\.nobody"),
        (lambda: facepcl.FaceEmbedder("pcl_vgg"), "Unknown model 'pcl_vgg'"),
        (lambda: facepcl.FaceEmbedder(branch="nose"), "shared, face, pose, identity, concat"),
        (lambda: facepcl.FaceEmbedder(branch="identity,concat"), "concat is shared, face and pose in one"),
        (lambda: facepcl.FaceEmbedder(device="abacus"), "device 'abacus'"),
        (lambda: facepcl.FaceEmbedder(device="meta"), "device 'meta' cannot be used"),
        (lambda: facepcl.embed("faces", "e.npz", workers=-1), "workers must be at least 0"),
    ],
)
def test_an_argument_of_another_type_is_one_sentence(call, said):
    with pytest.raises((OptionError, WeightsError), match=said):
        call()


def test_a_job_lists_its_sources_once(model, folder, tmp_path, monkeypatch):
    """Listing a bucket, or a glob on a network drive, may take minutes."""
    listed = mock.Mock(side_effect=sources._glob_entries)
    monkeypatch.setattr(sources, "_glob_entries", listed)
    facepcl.embed(f"{folder}/*.jpg", tmp_path / "e.npz", model=model)
    assert listed.call_count == 1


@pytest.mark.parametrize("call", [facepcl.embed, facepcl.analyze])
def test_a_missing_source_is_an_error_before_weights_are_loaded(tmp_path, call):
    with pytest.raises(MissingPath, match="nowhere: there is no such file or folder"):
        call("nowhere", tmp_path / "e.npz", model="no_such_model")


@pytest.mark.parametrize("given", [np.ones((1, 3)), [Image.new("RGB", (8, 8))], b"a.jpg", None])
def test_sources_are_paths_and_nothing_else(model, tmp_path, given):
    for call in (facepcl.embed, facepcl.align):
        with pytest.raises(OptionError, match=r"a source is a path or a list of paths, not .*FaceEmbedder"):
            call(given, tmp_path / "e.npz")
    assert list(tmp_path.iterdir()) == []


def test_normalized_vectors_have_unit_length(model, folder):
    vectors = facepcl.FaceEmbedder(model, normalize=True)([folder / "00.jpg", folder / "01.png"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("branch", ["shared", "face"])
def test_flip_is_the_mean_of_the_codes_of_a_face_and_its_mirror_image(model, folder, branch):
    image = Image.open(folder / "00.jpg").convert("RGB").resize((64, 64))
    both = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    wanted = facepcl.FaceEmbedder(model, branch, **FLOAT32)(both).mean(0, keepdims=True)
    found = facepcl.FaceEmbedder(model, branch, flip=True, **FLOAT32)(both)
    assert close(found, np.repeat(wanted, 2, 0))


def test_flip_leaves_the_pose_code_as_it_is(model, folder):
    table = facepcl.FaceEmbedder(model, "shared,pose", flip=True, **FLOAT32)([folder / "00.jpg"])
    pose = facepcl.FaceEmbedder(model, "pose", **FLOAT32)
    assert close(table[:, 2048:], pose([folder / "00.jpg"]))
    with pytest.raises(OptionError, match="flip cannot average pose codes"):
        facepcl.FaceEmbedder(model, "pose", flip=True)


def test_flip_has_a_space_of_its_own_but_for_pose(model):
    plain, flip = (facepcl.FaceEmbedder(model, flip=flip, **FLOAT32) for flip in (False, True))
    assert flip.space("shared") != plain.space("shared")
    assert flip.space("pose") == plain.space("pose")


def test_batch_size_and_workers_change_no_embedding(model, folder, tmp_path):
    tables = []
    for batch_size, workers in ((5, None), (1, 1), (4, 3), (32, 2)):
        out = tmp_path / f"{batch_size}.npz"
        facepcl.embed(folder, out, model=model, batch_size=batch_size, workers=workers, **FLOAT32)
        tables.append(facepcl.read_embeddings(out))
    for table in tables:
        assert table.paths == [str(path) for path in sorted(folder.iterdir())]
        assert close(table.vectors, tables[0].vectors)


def test_an_output_does_not_replace_a_source(model, folder, tmp_path):
    (tmp_path / "list.csv").write_text(f"path\n{folder}/00.jpg\n")
    for options in ({"out": tmp_path / "list.csv"}, {"out": tmp_path / "e.npz", "sheet": folder / "01.png"}):
        with pytest.raises(OptionError, match="is one of the sources and would be overwritten"):
            facepcl.embed([tmp_path / "list.csv", folder / "01.png"], model=model, **options)
    assert (tmp_path / "list.csv").read_text().startswith("path")


def test_a_sheet_is_not_written_among_the_images_where_the_next_run_would_read_it(model, folder, tmp_path):
    for given in ([folder], [tmp_path / "a.jpg", folder.parent]):
        with pytest.raises(OptionError, match=r"sheet.png is inside .* and would be read with its images"):
            facepcl.embed(given, tmp_path / "e.npz", model=model, sheet=folder / "sheet.png")
    assert not (folder / "sheet.png").exists()


def test_the_order_of_files_changes_no_embedding(model, folder, tmp_path):
    files = sorted(folder.iterdir())
    facepcl.embed(files, tmp_path / "a.npz", model=model, **FLOAT32)
    facepcl.embed(files[::-1], tmp_path / "b.npz", model=model, batch_size=3, **FLOAT32)
    a, b = facepcl.read_embeddings(tmp_path / "a.npz"), facepcl.read_embeddings(tmp_path / "b.npz")
    assert b.paths == a.paths[::-1]
    assert close(b.vectors[::-1], a.vectors)


def test_bad_files_are_rows_with_a_reason_and_cost_no_other(model, folder, tmp_path):
    summary = facepcl.embed(folder, tmp_path / "a.npz", model=model, batch_size=4, **FLOAT32)
    assert (summary.total, summary.failed) == (14, 3)
    table = facepcl.read_embeddings(tmp_path / "a.npz")
    reasons = {p.rpartition("-")[2]: e for p, e in zip(table.paths, table.errors, strict=True) if e}
    assert set(reasons) == {"truncated.jpg", "empty.png", "text.jpg"}
    good = [i for i, e in enumerate(table.errors) if not e]
    assert close(table.vectors[good], facepcl.FaceEmbedder(model, **FLOAT32)([table.paths[i] for i in good]))


def test_a_bad_item_of_a_list_raises_and_is_named(model, folder):
    with pytest.raises(ImageError, match=r"item 1 .*05-empty\.png"):
        facepcl.FaceEmbedder(model)([folder / "00.jpg", folder / "05-empty.png"])


def test_no_items_give_no_rows(model):
    assert facepcl.FaceEmbedder(model)([]).shape == (0, 2048)


def test_a_stream_gives_rows_before_the_source_is_read(model, folder):
    stream = facepcl.FaceEmbedder(model, batch_size=1).stream(folder)
    first = next(stream)
    assert first.path.endswith("00.jpg")
    assert first.vector.shape == (2048,)
    assert (first.width, first.height) == (40, 60)


def test_weights_branch_and_pool_make_the_space_but_dtype_does_not(model):
    space = facepcl.FaceEmbedder(model).meta["space"]
    assert facepcl.FaceEmbedder(model, dtype="bfloat16").meta["space"] == space
    assert facepcl.FaceEmbedder(model, branch="pose").meta["space"] != space
    assert facepcl.FaceEmbedder(model, pool="avg").meta["space"] != space
    assert facepcl.FaceEmbedder(facepcl.create_model("pcl_facecycle")).meta["space"] != space


def test_any_timm_model_embeds_by_its_trunk_and_its_own_statistics(folder):
    resnet = timm.create_model("resnet18", num_classes=0).eval()
    embedder = facepcl.FaceEmbedder(resnet, branch="shared", **FLOAT32)
    assert embedder.meta["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    x = timm.data.create_transform(**timm.data.resolve_model_data_config(resnet))(
        Image.open(folder / "01.png")
    )
    with torch.no_grad():
        assert close(embedder([folder / "01.png"]), resnet(x[None]).numpy())
    with pytest.raises(OptionError, match="no branches"):
        facepcl.FaceEmbedder(resnet, branch="face")


def test_a_resnets_shared_code_is_pooled_and_its_face_code_is_not(folder):
    model = facepcl.create_model("pcl_resnet18")
    assert facepcl.FaceEmbedder(model, branch="shared", size=128).meta["dimension"] == 512
    assert facepcl.FaceEmbedder(model, branch="face", size=128).meta["dimension"] == 2048


def test_nothing_global_is_touched(model, folder, tmp_path, capfd):
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.random.get_rng_state().tolist())
    facepcl.embed(folder, tmp_path / "a.npz", model=model, sheet=tmp_path / "s.png")
    assert before == (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.random.get_rng_state().tolist(),
    )
    assert capfd.readouterr() == ("", "")


def test_photographs_are_told_from_crops_by_shape_and_size():
    assert looks_like_crop(112, 112)
    assert looks_like_crop(250, 300)
    assert not looks_like_crop(1200, 1200)
    assert not looks_like_crop(640, 360)


def test_most_photographs_make_one_warning(model, tmp_path, caplog):
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (900, 600)).save(folder / f"{i}.jpg")
    facepcl.embed(folder, tmp_path / "a.npz", model=model)
    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "look like photos" in warnings[0].getMessage()


@pytest.mark.parametrize("count", [1, 3, 14])
def test_the_sheet_shows_few_and_many(model, folder, tmp_path, count):
    files = sorted(folder.iterdir())[:count]
    facepcl.embed(files, tmp_path / "a.npz", model=model, sheet=tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 900
        assert np.asarray(sheet).std() > 10  # something is drawn


@pytest.fixture
def bundled(monkeypatch, model):
    """The command line with a model at hand, whatever weights are bundled."""
    from facepcl.embedding import encoder

    monkeypatch.setattr(encoder, "_load", lambda name: (model, None))


def test_the_command_counts_on_its_last_line_and_exits_1(bundled, folder, tmp_path, capsys):
    out = tmp_path / "e.npz"
    assert main(["embed", str(folder), "-o", str(out), "--sheet", str(tmp_path / "s.png")]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith(f"wrote {out}: 11 embedded, 3 failed")
    assert "05-empty.png: the file is empty" in printed.err


def test_an_interruption_before_the_first_part_leaves_nothing(bundled, folder, tmp_path, monkeypatch):
    from facepcl.embedding import embedder

    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(embedder.FaceEmbedder, "_embed", interrupt)
    assert main(["embed", str(folder), "-o", str(tmp_path / "e.npz")]) == 130
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_a_module_given_stays_in_its_mode_and_layout(folder):
    """safetensors refuses channels_last weights, and a network in training would go on in eval mode."""
    mine = facepcl.create_model("pcl_facecycle").train()
    facepcl.FaceEmbedder(mine)([folder / "00.jpg"])
    assert mine.training
    assert all(parameter.is_contiguous() for parameter in mine.parameters())


def test_maps_with_channels_last_are_pooled_over_positions(folder):
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, depths=(1, 1, 1, 1)).eval()
    embedders = (facepcl.FaceEmbedder(swin, "shared", pool=pool, **FLOAT32) for pool in ("avg", "code"))
    pooled, code = (embedder([folder / "00.jpg"]) for embedder in embedders)
    assert pooled.shape == (1, 768)
    assert close(pooled, code)  # Swin's own code is the mean over positions


def test_a_bfloat16_module_embeds_in_float32(folder):
    half = facepcl.create_model("pcl_facecycle").bfloat16()
    assert np.isfinite(facepcl.FaceEmbedder(half)([folder / "00.jpg"])).all()
    assert next(half.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["eager", "trace"])
def test_an_embedder_is_copied_and_sent_to_other_processes(model, folder, backend):
    embedder = facepcl.FaceEmbedder(model, backend=backend, **FLOAT32)
    wanted = embedder([folder / "00.jpg"])
    for other in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        assert close(other([folder / "00.jpg"]), wanted)
        assert other.meta == embedder.meta


def test_any_iterable_of_images_is_a_list(model):
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    embedder = facepcl.FaceEmbedder(model)
    assert close(embedder(iter(images)), embedder(images))


@pytest.mark.slow
def test_a_jpeg_decoded_at_reduced_scale_keeps_its_code():
    """Large pictures, and some of 192 px, where the least is left (1.5 pixels for each of 64), and odd."""
    pytest.importorskip("numba", reason="needs the extra synth")
    from synthetic_faces.generator import Generator

    exact, reduced = [], []
    transform, generator = Transform.square(64), Generator(seed=3, size=400)
    for number in range(8):
        face = Image.fromarray(generator.image(number, 0)[0])
        for size in (face.size, (192 + number, 301)):
            exif, file = Image.Exif(), io.BytesIO()
            exif[274] = 1 + number % 8
            face.resize(size).save(file, "JPEG", quality=90, exif=exif)
            picture = decode_reduced(file.getvalue(), transform.needed)
            assert picture.image.size != picture.size
            exact.append(Image.fromarray(transform(decode(file.getvalue()))))
            reduced.append(Image.fromarray(transform(*picture)))
    embedder = facepcl.FaceEmbedder(branch="concat", **FLOAT32)
    cosine = facepcl.similarity(embedder(exact), embedder(reduced)).diagonal()
    assert cosine.min() > 0.999  # measured: 0.9999; 0.985 where the box was taken for the whole image


def test_a_table_made_with_weights_that_were_replaced_is_refused_with_that_reason(model, folder, tmp_path):
    table = facepcl.embed(folder, tmp_path / "e.npz", model=model, **FLOAT32).path
    newer = copy.deepcopy(model)
    newer.conv1[0].weight.data += 0.01
    with pytest.raises(
        OptionError, match=r"e\.npz was made with space .*: the weights of this name have been"
    ):
        facepcl.embed(folder, table, model=newer, resume=True, **FLOAT32)
    facepcl.embed(folder, tmp_path / "new.npz", model=newer, **FLOAT32)
    tables = (facepcl.read_embeddings(tmp_path / name) for name in ("e.npz", "new.npz"))
    with pytest.raises(TableError, match="the weights of this name have been replaced"):
        facepcl.similarity(*tables)


def test_several_branches_are_columns_that_compare_with_tables_of_one(folder, tmp_path):
    ones = {}
    for branch in ("face", "pose"):
        facepcl.embed(folder, tmp_path / f"{branch}.npz", branch=branch, dtype="float32")
        ones[branch] = facepcl.read_embeddings(tmp_path / f"{branch}.npz")
    for ending in ("npz", "csv", "parquet"):
        out = tmp_path / f"two.{ending}"
        failed = facepcl.embed(folder, out, branch="pose,face", dtype="float32").failed
        two = facepcl.read_embeddings(out)
        assert two.vectors.shape[1] == 4096
        for branch, one in ones.items():
            np.testing.assert_array_equal(two.branch(branch).vectors, one.vectors)
            assert np.nanmin(np.diagonal(facepcl.similarity(two.branch(branch), one))) > 0.9999  # one space
        with pytest.raises(TableError, match="different spaces"):
            facepcl.similarity(two.branch("face"), ones["pose"])
        with pytest.raises(OptionError, match="this table has pose, face, not 'shared'"):
            two.branch("shared")
    table = pytest.importorskip("pyarrow.parquet").read_table(out)
    assert table.column_names[-2:] == ["embedding_pose", "embedding_face"]
    assert table["embedding_face"].null_count == table["embedding_pose"].null_count == failed > 0
    assert len(table["embedding_face"][0]) == 2048


def test_items_that_are_no_files_say_what_to_give_instead(model):
    """And do not repeat megabytes."""
    embedder = facepcl.FaceEmbedder(model, dtype="float32")
    for item, said in (
        (
            "https://host/a.jpg?sig=1",
            r"item 0 \(https://.*\): a URL is not opened here; use embedder\.stream",
        ),
        (
            "data:image/jpeg;base64," + "A" * 3_000_000,
            r"A\.\.\.\): a data: URL is not decoded here; give base64",
        ),
        ("A" * 3_000_000, r"A\.\.\.\): cannot be read: File name too long"),
        ("nobody.jpg", r"nobody\.jpg: there is no such file"),
        ("A" * 100 + "/" + "b" * 3000, r"there is no such file|File name too long"),
    ):
        with pytest.raises((ImageError, MissingPath), match=said) as error:
            embedder([item])
        assert len(str(error.value)) < 400


def test_reasons_do_not_repeat_an_item_of_megabytes(model, tmp_path):
    (tmp_path / "list.csv").write_text(f"path\n{'a' * 100_000}\n")
    summary = facepcl.embed(tmp_path / "list.csv", tmp_path / "e.npz", model=model, workers=1)
    (reason,) = summary.reasons
    assert reason.endswith("...: cannot be read: File name too long")
    assert len(reason) < 300


def test_bytes_of_a_file_have_the_code_of_the_file(model, folder, tmp_path):
    path = tmp_path / "large.jpg"
    Image.open(sorted(folder.glob("*.jpg"))[0]).resize((900, 900)).save(path)
    embedder = facepcl.FaceEmbedder(model, dtype="float32")
    assert np.array_equal(embedder([path]), embedder([path.read_bytes()]))


def test_a_stream_tells_what_it_skipped(model, tmp_path, caplog):
    put_face(tmp_path / "a.jpg")
    put_face(tmp_path / "b.dat")
    embedder = facepcl.FaceEmbedder(model, dtype="float32")
    assert len(list(embedder.stream(tmp_path, workers=1))) == 1
    assert caplog.messages[-1] == "skipped 1 file: 1 .dat; use --all-files to read them"
    assert [row.error for row in embedder.stream(tmp_path, workers=1, all_files=True)] == [None, None]


@pytest.mark.usefixtures("no_waits")
def test_a_call_ends_with_one_sentence_if_the_drive_fails(model, tmp_path):
    break_drive(put_face(tmp_path / "a.jpg"))
    with pytest.raises(RemoteError, match=r"a\.jpg cannot be read: Input/output error, 3 times in a row"):
        facepcl.FaceEmbedder(model, dtype="float32")([tmp_path / "a.jpg"])


def test_the_command_reads_all_files_if_that_is_asked_for(bundled, tmp_path, caplog):
    put_face(tmp_path / "faces/a.jpg")
    put_face(tmp_path / "faces/b")
    command = ["embed", str(tmp_path / "faces"), "-o", str(tmp_path / "e.npz"), "--workers", "1"]
    assert main(command) == 0
    assert "skipped 1 file: 1 without extension; use --all-files to read them" in caplog.text
    assert main([*command, "--all-files"]) == 0
    assert len(facepcl.read_embeddings(tmp_path / "e.npz")) == 2
