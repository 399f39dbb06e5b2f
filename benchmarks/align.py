"""Finding and cutting faces: which are found, on what copy, at what score and turn; what a photograph costs.

    python benchmarks/align.py --detector face_detection_yunet_2023mar.onnx --data ../shared

Milliseconds are CPU time of one thread, the fastest of five. `--memory` aligns 100 and then 5,000 photographs
(the same ones again and again) and shows the largest memory of the command and its readers together.
`--templates` compares crops by the AUC of pairs, shared code of pcl_facecycle (needs scikit-learn).
"""

import argparse
import csv
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
from embed import milliseconds
from jobs import FACEPCL, run
from machine import describe
from PIL import Image

from facepcl import FaceEmbedder
from facepcl.images import detector
from facepcl.images.cropper import Alignment, FaceCutter
from facepcl.images.decode import decode, decode_reduced
from facepcl.images.detector import Detector
from facepcl.images.face import LANDMARKS
from facepcl.images.geometry import TEMPLATES, cut_to_size
from facepcl.images.transform import Transform

COUNTED = Path(__file__).resolve().parents[1] / "tests/photographs.csv"
FEW, MANY = 100, 5_000


def read_photographs(data: Path, folder: Path) -> tuple[list[Path], list[tuple[int, int]]]:
    """The photographs, and how many faces one sees in each, and may see more."""
    with tarfile.open(data / "data/real/photos.tar") as tar:
        tar.extractall(folder, filter="data")
    with COUNTED.open() as file:
        counted = [(int(row["faces"]), int(row["more"])) for row in csv.DictReader(file)]
    return sorted((folder / "photos").glob("*.jpg")), counted


def resized(image: Image.Image, long_side: int) -> Image.Image:
    share = long_side / max(image.size)
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)


def show_sides(net: Detector, images: list[Image.Image], counted: list[tuple[int, int]]) -> None:
    """What one pass finds on a copy of each size, by score."""
    print(
        "long side: photographs of 89 with a face / faces seen and found / boxes too many, at 0.6, 0.7, 0.8"
    )
    for side in (320, 480, 640, 900, 1280):
        scores = [net._rows(resized(image, side))[:, 14] for image in images]
        cells = []
        for least in (0.6, 0.7, 0.8):
            found = [int((s >= least).sum()) for s in scores]
            pairs = list(zip(found, counted, strict=True))
            with_face = sum(bool(n) for n, (faces, _) in pairs if faces)
            seen = sum(min(n, faces) for n, (faces, _) in pairs)
            extra = sum(max(0, n - faces) for n, (faces, _) in pairs)
            cells.append(f"{with_face} / {seen} / {extra}")
        print(f"  {side:5d}: " + "   ".join(cells))


def show_heights(net: Detector, images: list[Image.Image]) -> None:
    """How small a face may be."""
    single = [(image, rows[0]) for image in images if len(rows := net._rows(resized(image, 640))) == 1]
    print(f"height of the face on the copy: share found of {len(single)} at 0.7")
    for height in (10, 12, 16, 20, 30):
        found = 0
        for image, row in single:
            share = height / (row[3] - row[1]) * 640 / max(image.size)
            found += bool(len(net._rows(resized(image, max(32, round(max(image.size) * share))))))
        print(f"  {height} px: {found / len(single):.2f}")


def eyes(detector: Detector, image: Image.Image) -> float:
    faces = detector(image)
    if not faces:
        return float("nan")
    (x1, y1), (x2, y2) = max(faces, key=lambda face: face.score).landmarks[:2]
    return float(np.degrees(np.arctan2(y2 - y1, x2 - x1)))


def show_turns(detector: Detector, images: list[Image.Image], counted: list[tuple[int, int]]) -> None:
    """Photographs turned by quarters: the eye line within 20 degrees of the true one."""
    small = [resized(i, 640) for i, (faces, _) in zip(images, counted, strict=True) if faces]
    upright = [eyes(detector, image) for image in small]
    sure = detector.SURE
    for name, value in (("one way up", 0.0), ("four ways up below 0.92", sure)):
        detector.SURE = value
        shares = []
        for angle in (90, 180, 270):
            found = [eyes(detector, image.rotate(-angle, expand=True)) for image in small]
            off = (np.array(found) - upright - angle + 180) % 360 - 180
            shares.append(f"{np.mean(np.abs(off) < 20):.2f}")
        print(f"turned by 90, 180, 270 degrees, {name}: right for {', '.join(shares)}")
    detector.SURE = sure


def show_cost(path: Path, images: list[Image.Image]) -> None:
    """A JPEG of 8 megapixels with five faces, by steps and as the command does it."""
    large = next(i for i in images if i.size == (900, 600)).resize((3456, 2304), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=90)
    data = file.getvalue()
    net, cutter = Detector(path), FaceCutter(Alignment(str(path)), Transform.square(112))
    half = decode_reduced(data, 960).image
    square = TEMPLATES["face"](net(large)[0].landmarks)
    small = detector._at_most(half, 640)
    print("3456 x 2304, CPU ms:")
    for name, work in {
        "decoded whole": lambda: decode(data),
        "decoded at half the size": lambda: decode_reduced(data, 960),
        "reduced to 640 px": lambda: detector._at_most(half, 640),
        "one pass of YuNet at 640 px": lambda: net._rows(small),
        "one crop of 112 px from the whole": lambda: cut_to_size(large, square, 112),
        f"all, {len(net(large))} faces": lambda: cutter.of_file(data),
    }.items():
        print(f"  {name}: {milliseconds(work, 1, seconds=0):.0f}")


def peak(paths: list[Path], count: int, folder: Path, detector: str) -> tuple[float, float]:
    """Largest memory in MB, and seconds, of the command on `count` photographs."""
    manifest = folder / f"{count}.csv"
    manifest.write_text("path\n" + "".join(f"{paths[i % len(paths)]}\n" for i in range(count)))
    spent = run([*FACEPCL, "align", manifest, folder / f"out{count}", "--detector", detector], look=0.2)
    return spent.memory, spent.wall


def read_lfw(data: Path, folder: Path) -> tuple[dict[str, tuple[Image.Image, np.ndarray]], list[tuple]]:
    """Crops and landmarks by name, and the pairs of the first fold."""
    with tarfile.open(data / "data/real/lfw-112.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    with (data / "data/real/lfw-landmarks.csv").open() as file:
        points = {
            row["name"]: np.reshape([float(row[f"{n}_{a}"]) for n in LANDMARKS for a in "xy"], (5, 2))
            for row in csv.DictReader(file)
        }
    pairs = []
    with (folder / "lfw/pairs.csv").open() as file:
        for row in csv.DictReader(file):
            names = [f"{row[f'name{i}']}_{int(row[f'index{i}']):04d}.jpg" for i in (1, 2)]
            if row["fold"] == "0" and all(name in points for name in names):
                pairs.append((*names, int(row["same"])))
    wanted = sorted({name for pair in pairs for name in pair[:2]})
    read = {name: decode((folder / "lfw" / name[:-9] / name).read_bytes()) for name in wanted}
    return {name: (image, points[name]) for name, image in read.items()}, pairs


def read_ytf(data: Path, folder: Path) -> tuple[dict[str, tuple[Image.Image, np.ndarray]], list[tuple]]:
    """Frames and landmarks by name; random pairs of frames, half of them of one person."""
    with tarfile.open(data / "data/real/ytf-pose.tar") as tar:
        tar.extractall(folder / "ytf", filter="data")
    faces, people = {}, {}
    for path in sorted((folder / "ytf").rglob("*.json")):
        labels = json.loads(path.read_text())
        marks = np.array(labels["landmarks"])  # 68 points
        points = np.array([marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]])
        faces[path.stem] = decode(path.with_suffix(".jpg").read_bytes()), points
        people[path.stem] = labels["identity"]
    drawn = np.random.default_rng(0).choice(sorted(faces), (200_000, 2)).tolist()
    drawn = [(a, b, int(people[a] == people[b])) for a, b in drawn if a != b]
    same = [pair for pair in drawn if pair[2]]
    return faces, same + [pair for pair in drawn if not pair[2]][: len(same)]


def show_templates(data: Path, folder: Path) -> None:
    """AUC of the cosine of codes that are centred by their mean, for each kind of crop."""
    from sklearn.metrics import roc_auc_score

    embedder = FaceEmbedder("pcl_facecycle")
    for name, read in (("LFW", read_lfw), ("YouTube Faces", read_ytf)):
        faces, pairs = read(data, folder)
        for kind, template in {"as given": None, **TEMPLATES}.items():
            images = [
                image if template is None else cut_to_size(image, template(points), 64)
                for image, points in faces.values()
            ]
            vectors = embedder(images)
            vectors -= vectors.mean(0)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            code = dict(zip(faces, vectors, strict=True))
            auc = roc_auc_score([s for *_, s in pairs], [float(code[a] @ code[b]) for a, b, _ in pairs])
            print(f"{name}, {len(pairs)} pairs, {kind}: AUC {auc:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--templates", action="store_true")
    options = parser.parse_args()
    print(describe(), f"OpenCV {cv2.__version__}, {len(os.sched_getaffinity(0))} cores\n")
    with tempfile.TemporaryDirectory() as name:
        if options.templates:
            show_templates(options.data, Path(name))
            return
        paths, counted = read_photographs(options.data, Path(name))
        if options.memory:
            for count in (FEW, MANY):
                largest, seconds = peak(paths, count, Path(name), options.detector)
                print(f"{count} photographs: at most {largest:.0f} MB, {seconds:.0f} s", flush=True)
            return
        cv2.setNumThreads(1)
        images = [decode(path.read_bytes()) for path in paths]
        loose, net = Detector(options.detector, 0.6), Detector(options.detector)
        show_sides(loose, images, counted)
        show_heights(net, images)
        show_turns(net, images, counted)
        show_cost(Path(options.detector), images)


if __name__ == "__main__":
    main()
