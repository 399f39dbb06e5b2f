"""Find near-duplicates in a folder: the same picture again, re-encoded, resized or slightly cropped.

    python examples/find_duplicates.py examples/faces
    python examples/find_duplicates.py photos/ --align

Prints a line for each group: the lowest cosine of its first face with another, then the paths. A table of
`facepcl embed --branch identity --flip` may stand in place of the folder.

Faces are compared by the identity embeddings of an image and its mirror image (flip). The threshold is
halfway between 1 and the one in the index that accepts one in a hundred thousand pairs of different people of
LFW. Of the faces in 90 photographs, 90 % were found again in copies (JPEG quality 40; half the size; 3 % cut
off at each side, where faces at the edge are lost), and no two people were taken for one. Pictures of one
person in the same pose and light can be as similar as copies: look before you delete.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import facepcl
from facepcl.embedding.embeddings import Embeddings
from facepcl.errors import OptionError
from facepcl.models.registry import read_index

FALSE_ACCEPT_RATE = "1e-05"
BLOCK = 1024  # rows; the cosines of two blocks take 4 MB, those of all rows with all would not fit


def load(source: str, align: bool) -> Embeddings:
    if Path(source).suffix in (".parquet", ".npz", ".csv"):
        return facepcl.read_embeddings(source).branch("identity")
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/table.npz"
        facepcl.embed(source, out, branch="identity", flip=True, align=align, progress=True)
        return facepcl.read_embeddings(out)


def threshold_of(table: Embeddings) -> float:
    """Halfway between 1 and the cosine that the index has for the weights of a table."""
    if not table.meta.get("flip"):
        raise OptionError("this table was made without --flip: facepcl embed ... --branch identity --flip")
    for row in read_index():
        thresholds = row.cosines.get("thresholds_flip", {})
        if (row.model, row.tag) == (table.meta["model"], table.meta["tag"]) and thresholds:
            return (1 + float(thresholds[FALSE_ACCEPT_RATE][0])) / 2
    raise OptionError(f"the index has no threshold for this {table.meta['model']}: give --threshold")


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
    parser.add_argument("source", help="a folder of face crops, or a table of their identity embeddings")
    parser.add_argument("--align", action="store_true", help="the folder has photos: find their faces")
    parser.add_argument("--threshold", type=float, help="a copy has at least this cosine (default: above)")
    args = parser.parse_args()

    table = load(args.source, args.align)
    threshold = args.threshold or threshold_of(table)
    good = [i for i, error in enumerate(table.errors) if error is None]
    vectors = table.vectors[good]
    groups = groups_of(vectors, threshold)
    for rows in groups:
        lowest = facepcl.similarity(vectors[rows[0]], vectors[rows]).min()
        print(f"{lowest:.4f}", *(table.paths[good[row]] for row in rows))
    print(
        f"{len(groups)} groups in {len(good)} faces; {len(table) - len(good)} images have none or are damaged"
    )


if __name__ == "__main__":
    try:
        main()
    except facepcl.FacepclError as error:
        sys.exit(str(error))
