"""Ask a table of embeddings in SQL: what failed and why, and which faces are nearest to one.

    python examples/query_duckdb.py faces.parquet --embed examples/faces
    python examples/query_duckdb.py faces.parquet --like examples/faces/person4_yaw-25_disgust.jpg

The first writes faces.parquet and counts; the second counts and prints the five nearest. DuckDB reads the
file itself: any query on its columns (path, index, error, width, height, embedding) works the same way.
"""

import argparse
import sys
from pathlib import Path

import facepcl

try:
    import duckdb
except ImportError:
    sys.exit("duckdb is not installed; type: pip install duckdb")

OUTCOMES = """
    SELECT coalesce(error, 'fine') AS outcome, count(*) AS images
    FROM read_parquet($table) GROUP BY outcome ORDER BY images DESC, outcome
"""
# MATERIALIZED: list_cosine_similarity stops at the nulls of rows with an error, even of those filtered out,
# as long as DuckDB has not copied the others.
NEAREST = """
    WITH faces AS MATERIALIZED (
           SELECT path, index, embedding FROM read_parquet($table) WHERE error IS NULL),
         one AS (SELECT index, embedding FROM faces WHERE path = $like)
    SELECT list_cosine_similarity(faces.embedding, one.embedding) AS cosine, path
    FROM faces, one WHERE faces.index <> one.index ORDER BY cosine DESC LIMIT 5
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", help="a .parquet of `facepcl embed`")
    parser.add_argument("--embed", metavar="FOLDER", help="write the table first, from these face crops")
    parser.add_argument("--like", metavar="PATH", help="a path of the table; prints the nearest to it")
    args = parser.parse_args()
    if not args.table.endswith(".parquet"):
        sys.exit(f"{args.table}: DuckDB reads the .parquet tables of `facepcl embed`")
    if args.embed:
        facepcl.embed(args.embed, args.table, progress=True)
    elif not Path(args.table).is_file():
        sys.exit(f"{args.table}: there is no such table; write it with --embed FOLDER")

    print("images  outcome")
    for outcome, images in duckdb.execute(OUTCOMES, {"table": args.table}).fetchall():
        print(f"{images:6}  {outcome}")
    if args.like:
        nearest = duckdb.execute(NEAREST, {"table": args.table, "like": args.like}).fetchall()
        if not nearest:
            sys.exit(f"{args.like}: the table has no such path without an error, or nothing beside it")
        print(f"\ncosine  nearest to {args.like}")
        for cosine, path in nearest:
            print(f"{cosine:6.4f}  {path}")


if __name__ == "__main__":
    try:
        main()
    except facepcl.FacepclError as error:  # such as: pyarrow is not installed; type: ...
        sys.exit(str(error))
