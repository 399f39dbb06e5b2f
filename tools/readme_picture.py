"""Draw docs/images/analyze_and_search.jpg: python tools/readme_picture.py [--detector YUNET.onnx]

Renders photos of people who do not exist (needs `facepcl[synth,align,parquet]`), and stacks the sheets that
`facepcl analyze --sheet` and `facepcl search --sheet` draw of them.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

import facepcl

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/images/analyze_and_search.jpg"
SEED, SIZE, QUALITY = 2031, 360, 85  # not the seed of the training data
PEOPLE, IMAGES = range(1, 9), range(5)
ANALYZED = ("person5_0", "person8_3", "person2_3")
QUERIES = ("person5_4", "person7_2")  # not in the table that is searched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--detector", help="YuNet's ONNX file (default: fetched from the Hub)")
    detector = parser.parse_args().detector
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _render()
        photos = [f"photos/{name}.png" for name in ANALYZED]
        facepcl.analyze(photos, "analyzed.parquet", sheet="analyzed.png", detector=detector)
        facepcl.analyze("photos", "faces.parquet", detector=detector)
        queries = [f"{name}.png" for name in QUERIES]
        facepcl.search(queries, "faces.parquet", top=5, sheet="found.png", detector=detector)
        sheets = [Image.open(file).convert("RGB") for file in ("analyzed.png", "found.png")]
    picture = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    picture.paste(sheets[0], (0, 0))
    picture.paste(sheets[1], (0, sheets[0].height))
    picture.save(OUT, quality=QUALITY)


def _render() -> None:
    """Write the photos to photos/, and those that are searched for beside it."""
    sys.path.insert(0, str(ROOT / "examples"))
    from synthetic_faces.generator import Generator

    generator = Generator(seed=SEED, size=SIZE)
    Path("photos").mkdir()
    for person in PEOPLE:
        for image in IMAGES:
            name = f"person{person}_{image}"
            folder = Path(".") if name in QUERIES else Path("photos")
            Image.fromarray(generator.image(person, image)[0]).save(folder / f"{name}.png")


if __name__ == "__main__":
    main()
