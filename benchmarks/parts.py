"""CPU milliseconds that `facepcl align` and `facepcl analyze` take for a photo, by part, on one core.

    python benchmarks/parts.py --detector face_detection_yunet_2023mar.onnx

Photos of 1280 x 960 px with two of the sample faces each. Beside each part stands OpenCV: its decoder at
half the size, one pass of its YuNet, and its warp, which aliases where a face shrinks. Rendered faces have
low scores, so ours looks for them in all four orientations and once more on a larger copy. The rest of a
command are its processes, pipes and files.
"""

import argparse
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from embed import FACES, milliseconds
from jobs import FACEPCL, run
from machine import describe
from PIL import Image

from facepcl.analysis.analyzer import AttributeEmbedder
from facepcl.images.cropper import NEEDED
from facepcl.images.decode import decode_reduced
from facepcl.images.detector import LONG_SIDE, Detector
from facepcl.images.geometry import Square, cut_to_size, face_square
from facepcl.utils.memory import keep_freed_memory

WIDTH, HEIGHT, FACE, FACES_EACH = 1280, 960, 280, 2
CROP = 112
FEW, MANY = 32, 160  # photos of a short and of a long job


def write_photos(folder: Path, count: int) -> list[Path]:
    """Sample faces on a grainy wall, quality 90."""
    faces = [Image.open(path).convert("RGB").resize((FACE, FACE)) for path in sorted(FACES.glob("*.jpg"))]
    random = np.random.default_rng(0)
    paths = [folder / f"{i:04d}.jpg" for i in range(count)]
    for number, path in enumerate(paths):
        wall = random.normal(128, 12, (HEIGHT, WIDTH, 3)).clip(0, 255).astype(np.uint8)
        photo = Image.fromarray(wall).resize((WIDTH // 4, HEIGHT // 4)).resize((WIDTH, HEIGHT))
        for place in range(FACES_EACH):
            left = 150 + 600 * place + int(random.integers(80))
            photo.paste(faces[(FACES_EACH * number + place) % len(faces)], (left, 250))
        photo.save(path, quality=90)
    return paths


def photo_parts(paths: Sequence[Path], detector: str) -> None:
    """Decoding, detection, crops and their files, here and in OpenCV."""
    datas = [path.read_bytes() for path in paths]
    encoded = [np.frombuffer(data, np.uint8) for data in datas]
    pictures = [decode_reduced(data, NEEDED).image for data in datas]
    arrays = [np.asarray(picture) for picture in pictures]
    ours, theirs = Detector(detector), cv2.FaceDetectorYN.create(detector, "", (LONG_SIDE, LONG_SIDE), 0.7)
    squares = [[face_square(face.landmarks) for face in ours(picture)] for picture in pictures]
    pairs = [(i, square) for i, found in enumerate(squares) for square in found]
    crops = [cut_to_size(pictures[i], square, CROP) for i, square in pairs]
    crop_arrays = [np.asarray(crop) for crop in crops]

    def detect(array: np.ndarray) -> None:
        scale = LONG_SIDE / max(array.shape)
        small = cv2.resize(array, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        theirs.setInputSize(small.shape[1::-1])
        theirs.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))

    def warp(array: np.ndarray, square: Square) -> None:
        turn = cv2.getRotationMatrix2D((square.x, square.y), square.angle, CROP / 2 / square.half)
        cv2.warpAffine(array, turn, (CROP, CROP), flags=cv2.INTER_LINEAR)

    row(
        "decode",
        len(paths),
        lambda: [decode_reduced(data, NEEDED) for data in datas],
        lambda: [cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_2) for data in encoded],
    )
    row(
        "find faces",
        len(paths),
        lambda: [ours(p) for p in pictures],
        lambda: [detect(array) for array in arrays],
    )
    row(
        f"crops of {CROP} px",
        len(paths),
        lambda: [cut_to_size(pictures[i], square, CROP) for i, square in pairs],
        lambda: [warp(arrays[i], square) for i, square in pairs],
    )
    row(
        "crops as JPEG, quality 95",
        len(paths),
        lambda: [crop.save(io.BytesIO(), "JPEG", quality=95) for crop in crops],
        lambda: [cv2.imencode(".jpg", crop, (cv2.IMWRITE_JPEG_QUALITY, 95)) for crop in crop_arrays],
    )


def network_parts(detector: str) -> None:
    """The network and its heads for the faces of a photo, in batches of 64."""
    embedder = AttributeEmbedder(align=True, detector=detector)
    side = embedder.transform.shape[0]
    pixels = np.random.default_rng(0).integers(0, 256, (64, side, side, 3), dtype=np.uint8)
    maps, photos = embedder.maps(pixels), 64 // FACES_EACH
    name = f"network, {embedder.meta['dtype']}, {FACES_EACH} faces"
    row(name, photos, lambda: embedder.maps(pixels))
    row("heads and identity", photos, lambda: (embedder.vectors(maps), embedder._predict(maps, None)))


def row(
    part: str, photos: int, ours: Callable[[], object], theirs: Callable[[], object] | None = None
) -> None:
    cells = [f"{milliseconds(work, photos):.2f}" if work else "" for work in (ours, theirs)]
    print(f"| {part} | {' | '.join(cells)} |", flush=True)


def whole_job(folder: Path, command: str, paths: Sequence[Path], words: Sequence[object]) -> float:
    """CPU seconds of a command on photos."""
    count = len(paths)
    manifest = folder / f"{count}.csv"
    manifest.write_text("path\n" + "".join(f"{path.resolve()}\n" for path in paths))
    out = {"align": [folder / f"crops{count}"], "analyze": ["-o", folder / f"{count}.parquet"]}[command]
    shutil.rmtree(folder / f"crops{count}", ignore_errors=True)
    return run([*FACEPCL, command, manifest, *out, *words]).cpu


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--detector", required=True, help="YuNet's ONNX file")
    parser.add_argument("--photos", type=Path, help="folder of JPEG photos instead of made ones")
    parser.add_argument("--few", type=int, default=FEW, help=f"photos of a short job (default: {FEW})")
    parser.add_argument("--many", type=int, default=MANY, help=f"photos of a long job (default: {MANY})")
    args = parser.parse_args(words)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the commands inherit it
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as the commands do
    print(describe(), f"OpenCV {cv2.__version__}\n\n| part | CPU ms a photo | OpenCV |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = sorted(args.photos.glob("*.jpg")) if args.photos else write_photos(folder, args.many)
        photo_parts(paths if args.photos else paths[: args.few], args.detector)
        network_parts(args.detector)
        for command in ("align", "analyze"):
            few, many = (
                min(whole_job(folder, command, some, ["--detector", args.detector]) for _ in range(2))
                for some in (paths[: args.few], paths)
            )
            spent = 1000 * (many - few) / (len(paths) - args.few)
            print(f"| facepcl {command} | {spent:.2f} | |", flush=True)


if __name__ == "__main__":
    main()
