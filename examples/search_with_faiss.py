"""Approximate search with FAISS, for large tables that are searched so often that reading them is too slow.

    python examples/search_with_faiss.py faces.npz --embed examples/faces --index faces.faiss
    python examples/search_with_faiss.py faces.npz --index faces.faiss --row 3

The first writes a table of the faces, then the index, and says how many of the ten nearest rows the index
finds that `facepcl search` finds; the second loads the index and prints the nearest to a row. A table of
`facepcl embed` (.parquet, .npz, .csv, or a folder of .parquet) is read table by table; the index itself has
to fit into memory: with HNSW32 a vector of 256 numbers takes 1.3 kB. For more see --factory and
https://github.com/facebookresearch/faiss/wiki/The-index-factory, such as "IVF4096,PQ64" (64 bytes a vector).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import facepcl
from facepcl.embedding.embeddings import compared_branch, unit
from facepcl.embedding.scan import open_table

try:
    import faiss
except ImportError:
    sys.exit("faiss is not installed; type: pip install faiss-cpu")

TOP, SAMPLE = 10, 200  # matches of a row, and rows by which the index is compared with the exact search


def vectors_of(table: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the rows without an error, and their vectors at length 1, table by table."""
    start = 0
    for path in sorted(Path(table).glob("*.parquet")) if Path(table).is_dir() else [table]:
        read = facepcl.read_embeddings(path)
        read = read.branch(compared_branch(read.meta, str(path)))
        good = np.flatnonzero([error is None for error in read.errors])
        yield start + good, unit(read.vectors[good])
        start += len(read)


def build(table: str, factory: str) -> faiss.Index:
    """An index of the table whose numbers are the table's rows."""
    index = None
    for rows, vectors in vectors_of(table):
        if index is None:
            index = faiss.index_factory(vectors.shape[1], f"IDMap,{factory}", faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)  # by the first table; HNSW needs none
        index.add_with_ids(vectors, rows)
    return index


def recall(index: faiss.Index, table: str) -> float:
    """The share of the exact search's matches that the index finds, for some rows of the first table."""
    rows, vectors = next(vectors_of(table))
    chosen = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)
    _, found = index.search(vectors[chosen], TOP)
    exact = facepcl.search(vectors[chosen], table, TOP)
    hits = [
        len({match.row for match in result.matches} & set(row.tolist()))
        for result, row in zip(exact, found, strict=True)
    ]
    return sum(hits) / sum(len(result.matches) for result in exact)


def print_nearest(index: faiss.Index, name: str, row: int) -> None:
    table = open_table(name)  # rows are read by their numbers, and no others
    query = next(iter(table.places([row], vectors=True)), None) if 0 <= row < len(table) else None
    if query is None or query.table.errors[query.place]:
        sys.exit(f"{name} has no embedding in row {row}; its {len(table):,} rows are numbered from 0")
    vectors = query.table.branch(compared_branch(table.meta, name)).vectors[query.place]
    cosines, rows = index.search(unit(vectors[None]), TOP + 1)
    found = {int(r): float(c) for r, c in zip(rows[0], cosines[0], strict=True) if r not in (row, -1)}
    paths = {place.row: place.table.paths[place.place] for place in table.places(found)}
    print(f"cosine  nearest to {query.table.paths[query.place]}")
    for number, cosine in list(found.items())[:TOP]:
        print(f"{cosine:6.4f}  {paths[number]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", help="a table of `facepcl embed`, or a folder of them")
    parser.add_argument("--embed", metavar="FOLDER", help="write the table first, from these face crops")
    parser.add_argument("--index", required=True, help="file of the index; it is written if it is not there")
    parser.add_argument("--factory", default="HNSW32", help="kind of index (default: %(default)s)")
    parser.add_argument("--row", type=int, help="print the nearest to this row of the table")
    args = parser.parse_args()
    if args.embed:
        facepcl.embed(args.embed, args.table, progress=True)
    if Path(args.index).exists():
        index = faiss.read_index(args.index)
    else:
        index = build(args.table, args.factory)
        faiss.write_index(index, args.index)
        print(f"wrote {args.index}: {index.ntotal:,} vectors")
        print(f"it finds {recall(index, args.table):.1%} of the {TOP} nearest rows of the exact search")
    if args.row is not None:
        print_nearest(index, args.table, args.row)


if __name__ == "__main__":
    try:
        main()
    except facepcl.FacepclError as error:
        sys.exit(str(error))
