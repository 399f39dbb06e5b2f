"""Render the sample faces of `facepcl demo`: python tools/demo_faces.py (needs `facepcl[synth]`)."""

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "facepcl/demo/faces"
SEED, SIZE, QUALITY = 2029, 200, 82  # not the seed of the training data
CHOSEN = ((0, 0), (0, 3), (1, 2), (1, 4), (2, 4), (2, 3), (3, 2), (3, 5), (5, 1), (5, 2))  # person, image


def main() -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    from synthetic_faces.generator import Generator

    generator = Generator(seed=SEED, size=SIZE)
    OUT.mkdir(exist_ok=True)
    for person, image in CHOSEN:
        pixels, labels = generator.image(person, image)
        name = f"person{person + 1}_yaw{labels['yaw']:+03.0f}.jpg"
        Image.fromarray(pixels).save(OUT / name, quality=QUALITY)


if __name__ == "__main__":
    main()
