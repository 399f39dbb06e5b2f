"""The landmarks of labelled shards as a file for `facepcl align --landmarks`.

    python examples/synthetic_faces/landmarks.py FACES LANDMARKS.csv
    facepcl align FACES CROPS --landmarks LANDMARKS.csv

Run both in the same folder: the shards keep the names that they have from there.
"""

import csv
import json
import sys
import tarfile
from pathlib import Path

from facepcl.images.face import LANDMARK_COLUMNS, LANDMARKS


def main(folder: str, out: str) -> None:
    shards = sorted(Path(folder).glob("*.tar"))
    if not shards:
        sys.exit(f"no .tar shards in {folder}")
    with Path(out).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", *LANDMARK_COLUMNS])
        for shard in shards:
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        landmarks = json.load(tar.extractfile(member))["landmarks"]  # type: ignore[arg-type]
                        image = Path(shard, member.name).with_suffix(".jpg")
                        table.writerow([image, *(n for name in LANDMARKS for n in landmarks[name])])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/synthetic_faces/landmarks.py FACES LANDMARKS.csv")
    main(*sys.argv[1:])
