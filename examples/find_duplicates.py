"""Find near-duplicates in a folder: the same picture again, re-encoded, resized or slightly cropped.

    python examples/find_duplicates.py examples/faces

Prints a line for each group: the lowest cosine of its first picture with another, then the paths. A table of
`facepcl embed` (.parquet, .npz, .csv) may stand in place of the folder.

The threshold: tests/test_examples.py copies the 24 faces at JPEG quality 40, at 80 px and back, and without
3 % at each side. The lowest cosine with the copy is 0.994, 1.000 and 0.960; of different pictures the highest
is 0.921. With the table's mean subtracted first it is 0.989, 1.000, 0.921 and 0.859: a wider gap, but it
depends on what else is in the folder, and two copies alone would get -1. So the codes are compared as they
are. Pictures of one person in the same pose and light can be as near as copies: look before you delete.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import facepcl
from facepcl.embedding.embeddings import Embeddings

BLOCK = 1024  # rows; the cosines of two blocks take 4 MB, those of all rows with all would not fit


def load(source: str) -> Embeddings:
    if Path(source).suffix in (".parquet", ".npz", ".csv"):
        return facepcl.read_embeddings(source)
    with tempfile.TemporaryDirectory() as folder:
        facepcl.embed(source, f"{folder}/table.npz", progress=True)
        return facepcl.read_embeddings(f"{folder}/table.npz")


def groups_of(vectors: np.ndarray, threshold: float) -> list[list[int]]:
    """Rows that a chain of cosines at or above the threshold connects, two and more."""
    group = [[i] for i in range(len(vectors))]  # of each row; the rows of a group share one list
    for top in range(0, len(vectors), BLOCK):
        for left in range(top, len(vectors), BLOCK):
            cosines = facepcl.similarity(vectors[top : top + BLOCK], vectors[left : left + BLOCK])
            for i, j in np.argwhere(cosines >= threshold) + np.array([top, left]):
                if group[i] is not group[j]:
                    group[i] += group[j]
                    for member in group[j]:
                        group[member] = group[i]
    return [sorted(rows) for i, rows in enumerate(group) if len(rows) > 1 and min(rows) == i]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", help="a folder of face crops, or a table of their shared codes")
    parser.add_argument("--threshold", type=float, default=0.94, help="a copy has at least this cosine")
    args = parser.parse_args()

    table = load(args.source)
    good = [i for i, error in enumerate(table.errors) if error is None]
    vectors = table.vectors[good]
    groups = groups_of(vectors, args.threshold)
    for rows in groups:
        lowest = facepcl.similarity(vectors[rows[0]], vectors[rows]).min()
        print(f"{lowest:.4f}", *(table.paths[good[row]] for row in rows))
    print(f"{len(groups)} groups in {len(good)} images; {len(table) - len(good)} skipped for an error")


if __name__ == "__main__":
    try:
        main()
    except facepcl.FacepclError as error:
        sys.exit(str(error))
