"""What is fed with damaged files: the readers of the library, each with small good files to begin with."""

import io
import json
import pickle
import random
import tarfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

import facepcl
from facepcl.alignment.face_table import read_landmarks
from facepcl.data.file_types import Selection
from facepcl.data.labels import read_labels
from facepcl.data.sources import list_entries, read_items
from facepcl.errors import FacepclError
from facepcl.hub.torch_checkpoint import read_checkpoint
from facepcl.images.decode import decode_reduced, quiet_pillow
from facepcl.images.transform import Transform
from facepcl.models.io import load_tensors, read_metadata, read_shapes, save_encoder
from facepcl.pretrain.checkpoints import check_same_run
from facepcl.pretrain.dataset import read_samples
from facepcl.probes.datasets.verification import read_bin
from fuzz import mutate
from fuzz.mutate import Change

TRANSFORM = Transform.square(64)
BATCH = 64


@dataclass(frozen=True)
class Subject:
    """`seeds()` makes good files; `run(data, folder)` reads a damaged one; `share` of a hundred cases. Half
    of the cases go another way where there is one: `repairs` make them agree with their checksums, `inside`
    damages what a good file holds and packs it again."""

    name: str
    share: int
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], None]
    repairs: tuple[Change, ...] = ()
    inside: tuple[Change, ...] = ()

    def case(self, seeds: list[bytes], seed: int, number: int) -> bytes:
        """The damaged file `number` of those that begin with `seed`."""
        rng = random.Random(f"{seed} {self.name} {number}")
        seed_file, another_way = rng.choice(seeds), rng.random() < 0.5
        ways = (*self.repairs, *self.inside)
        way = rng.choice(ways) if another_way and ways else None
        if way in self.inside:
            return way(seed_file, rng)
        data = mutate.mutated(seed_file, seeds, rng)
        return way(data, rng) if way else data


def _picture(mode: str = "RGB", size: tuple[int, int] = (96, 80)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def _encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    _picture(mode).save(file, kind, **options)
    return file.getvalue()


def _jpegs() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _encoded("JPEG"),
        _encoded("JPEG", progressive=True, quality=40),
        _encoded("JPEG", mode="L"),
        _encoded("JPEG", mode="CMYK"),
        _encoded("JPEG", exif=exif, icc_profile=bytes(300), comment=b"c" * 40, restart_marker_blocks=4),
    ]


def _pngs() -> list[bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 200, zip=True)
    text.add_itxt("c", "d" * 50)
    gray16 = io.BytesIO()
    Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80)).save(gray16, "PNG")
    modes = [_encoded("PNG", mode) for mode in ("RGB", "RGBA", "LA", "P", "1")]
    animated = _encoded("PNG", save_all=True, append_images=[_picture(size=(96, 80)).rotate(9)])
    return [*modes, gray16.getvalue(), _encoded("PNG", pnginfo=text, dpi=(72, 72)), animated]


def _other_images() -> list[bytes]:
    packed = [_encoded("TIFF", compression=c) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    kinds = [_encoded(kind) for kind in ("BMP", "GIF", "WEBP", "PPM", "TGA", "JPEG2000", "ICO", "PCX", "SGI")]
    return [*packed, *kinds, _encoded("WEBP", "RGBA", lossless=True), _encoded("TGA", compression="tga_rle")]


def _heics() -> list[bytes]:
    return [(Path(__file__).parents[2] / "tests/turned_face.heic").read_bytes()]


class _Embed:
    """Decodes, and embeds what could be decoded, a batch at a time."""

    def __init__(self) -> None:
        self.waiting: list[np.ndarray] = []
        self.embedder: facepcl.FaceEmbedder | None = None

    def __call__(self, data: bytes, folder: Path) -> None:
        with quiet_pillow():
            pixels = TRANSFORM(*decode_reduced(data, TRANSFORM.needed))
        if pixels.shape != TRANSFORM.shape or pixels.dtype != np.uint8:
            raise AssertionError(f"pixels {pixels.dtype} {pixels.shape}")
        self.waiting.append(pixels)
        if len(self.waiting) == BATCH:
            if self.embedder is None:
                self.embedder = facepcl.FaceEmbedder(dtype="float32")
            vectors = self.embedder.vectors(self.embedder.maps(np.stack(self.waiting)))
            self.waiting.clear()
            if not np.isfinite(vectors).all():
                raise AssertionError("a vector is not finite")


def _tars() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, data in {
                "a.jpg": b"jpeg" * 200,
                "a.json": b'{"yaw": 3, "au": {"AU12": 0.5}}',
                "b.cls": b"happy",
                "b.png": b"png" * 30,
                "d/" + "e" * 90 + "/" + "f" * 60 + ".jpg": b"long",
                "ünïcode.jpg": b"",
            }.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "../../etc/passwd"
            archive.addfile(link)
        found.append(file.getvalue())
    return found


def _read_shard(data: bytes, folder: Path) -> None:
    path = folder / "s.tar"
    path.write_bytes(data)
    for item in read_items(list_entries([path])):
        with suppress(FacepclError):
            item.read()
    for _ in read_samples([path]):
        pass


def _videos() -> list[bytes]:
    import av

    found = []
    for kind, codec in (("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")):
        file = io.BytesIO()
        with av.open(file, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for shift in range(6):
                pixels = np.roll(np.asarray(_picture(size=(64, 48))), 4 * shift, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode())
        found.append(file.getvalue())
    return found


def _read_video(data: bytes, folder: Path) -> None:
    path, selection = folder / "v.mp4", Selection(fps=10)
    path.write_bytes(data)
    for item in read_items(list_entries([path], selection), selection=selection):
        item.read()


def _safetensors() -> list[bytes]:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b.weight": torch.zeros(4, dtype=torch.float16)}
    long = {f"layer{i}": torch.zeros(2) for i in range(40)}
    return [save(tensors, {"step": "3", "progress": "{}"}), save(long), save({})]


def _read_safetensors(data: bytes, folder: Path) -> None:
    path = folder / "w.safetensors"
    path.write_bytes(data)
    for read in (read_shapes, read_metadata, load_tensors):
        read(path)


_encoders: dict[Path, Path] = {}


def _encoder(folder: Path) -> Path:
    """The folder of an encoder without branches, whose weights are small."""
    if folder not in _encoders:
        torch.manual_seed(0)
        _encoders[folder] = save_encoder(
            facepcl.create_model("pcl_facecycle", branches=False), folder / "encoder"
        )
    return _encoders[folder]


def _configs() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        config = (_encoder(Path(temporary)) / "config.json").read_bytes()
    whole = json.loads(config)
    whole["model_args"] |= {"num_classes": 0, "in_chans": 3, "drop_rate": 0.0}
    whole["facepcl"] = {"architecture": "pcl_facecycle", "branches": None}
    return [config, json.dumps(whole).encode()]


def _create(data: bytes, folder: Path) -> None:
    encoder = _encoder(folder)
    (encoder / "config.json").write_bytes(data)
    facepcl.create_model(f"local-dir:{encoder}")


def _run_configs() -> list[bytes]:
    return [json.dumps({"lr": 0.1, "batch": 3, "data": ["x"], "images": 3, "autocast": "float32"}).encode()]


def _read_run_config(data: bytes, folder: Path) -> None:
    path = folder / "run.json"
    path.write_bytes(data)
    (folder / "checkpoint-00000001.safetensors").touch()
    check_same_run(path, {"lr": 0.1, "batch": 3})


def _labels() -> list[bytes]:
    whole = {"yaw": 1.5, "pitch": -2, "au": {"AU1": 0.5}, "expression": "sad", "identity": 3}
    return [json.dumps(whole | {"landmarks": {"nose": [1, 2]}}).encode(), b"{}"]


def _csvs() -> list[bytes]:
    return [b'path,label\na.jpg,1\n"b,c.jpg",2\n', "\ufeffpath\r\nü.jpg\r\n".encode(), b"x,path\n1,2\n"]


def _read_manifest(data: bytes, folder: Path) -> None:
    path = folder / "list.csv"
    path.write_bytes(data)
    for item in read_items(list_entries([path])):
        with suppress(FacepclError):
            item.read()


def _face_csvs() -> list[bytes]:
    from facepcl.images.face import LANDMARK_COLUMNS

    row = ",".join(map(str, range(10)))
    return [f"path,{','.join(LANDMARK_COLUMNS)}\na.jpg,{row}\nb.jpg{',' * 10}\n".encode()]


def _read_faces(data: bytes, folder: Path) -> None:
    (folder / "faces.csv").write_bytes(data)
    read_landmarks(folder / "faces.csv")


def _tables(kind: str) -> Callable[[], list[bytes]]:
    def make() -> list[bytes]:
        import tempfile

        from facepcl.embedding.embeddings import Embeddings
        from facepcl.embedding.tables import write_table

        meta = {"dimension": 4, "space": "x", "model": "m", "branch": "b", "pool": "p"}
        vectors, sizes = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 2), np.int32)
        rows = Embeddings(vectors, ["a", "b", "c"], [None, "bad", None], sizes, meta)
        with tempfile.TemporaryDirectory() as temporary:
            write_table(Path(temporary) / f"t.{kind}", meta, [rows], 3)
            return [(Path(temporary) / f"t.{kind}").read_bytes()]

    return make


def _read_table(kind: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / f"t.{kind}"
        path.write_bytes(data)
        if kind == "csv":
            path.with_name("t.csv.meta.json").write_text('{"dimension": 4, "rows": 3, "space": "x"}')
        facepcl.read_embeddings(path)

    return read


def _bins() -> list[bytes]:
    return [pickle.dumps(([b"jpeg"] * 4, [True, False]), protocol) for protocol in (3, 4)]


def _read_bin(data: bytes, folder: Path) -> None:
    (folder / "lfw.bin").write_bytes(data)
    for item in read_bin(folder / "lfw.bin").items():
        item.read()


def _checkpoints() -> list[bytes]:
    found = []
    for new in (True, False):
        file = io.BytesIO()
        state = {"state_dict": {"module.a": torch.ones(3), "b": torch.zeros(2, 2).half()}}
        torch.save(state, file, _use_new_zipfile_serialization=new)
        found.append(file.getvalue())
    return found


def _read_checkpoint(data: bytes, folder: Path) -> None:
    (folder / "c.pth").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_checkpoint(folder / "c.pth")


SUBJECTS = (
    Subject("jpeg", 20, _jpegs, _Embed()),
    Subject("png", 18, _pngs, _Embed(), (mutate.png,), (mutate.png_inside, mutate.png_inside)),
    Subject("other images", 10, _other_images, _Embed()),
    Subject("heic", 4, _heics, _Embed()),
    Subject("tar", 10, _tars, _read_shard, (mutate.tar, mutate.tar, mutate.packed_tar)),
    Subject("video", 2, _videos, _read_video),
    Subject("safetensors", 12, _safetensors, _read_safetensors, inside=(mutate.safetensors,)),
    Subject("encoder config", 2, _configs, _create, inside=(mutate.values,)),
    Subject("run config", 2, _run_configs, _read_run_config, inside=(mutate.values,)),
    Subject("labels", 4, _labels, lambda data, _: read_labels(data, "labels.json"), inside=(mutate.values,)),
    Subject("manifest", 3, _csvs, _read_manifest),
    Subject("landmarks", 2, _face_csvs, _read_faces),
    Subject("npz table", 4, _tables("npz"), _read_table("npz"), inside=(mutate.zipped,)),
    Subject("csv table", 2, _tables("csv"), _read_table("csv")),
    Subject("parquet table", 2, _tables("parquet"), _read_table("parquet")),
    Subject("pairs .bin", 1, _bins, _read_bin),
    Subject("checkpoint", 2, _checkpoints, _read_checkpoint, inside=(mutate.zipped,)),
)


assert sum(subject.share for subject in SUBJECTS) == 100
