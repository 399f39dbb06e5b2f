"""`facepcl search`: options, then one call of `facepcl.search`."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from facepcl.cli.options import add_detector, prepare_process
from facepcl.utils.streams import say

if TYPE_CHECKING:
    from facepcl.embedding.search import SearchResult

DESCRIPTION = "Find the faces in a table of embeddings that are most similar to the face in a photo."
EXAMPLE = """example: facepcl analyze photos/ -o faces.parquet
         facepcl search me.jpg --in faces.parquet --sheet found.jpg

The search is exact, and its memory does not grow with the size of Parquet tables. Exit code 0: done; 1: a
query could not be read or shows no face; 2: the command was wrong."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="photo, crop, folder or 'glob/*.jpg'")
    parser.add_argument(
        "--in",
        dest="table",
        required=True,
        metavar="TABLE",
        help="table of `facepcl analyze` or `embed`: .parquet, .npz, .csv, or a folder of .parquet",
    )
    parser.add_argument(
        "--top", type=int, default=10, metavar="K", help="matches per query (default: %(default)s)"
    )
    parser.add_argument(
        "--row",
        dest="rows",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="use row N of the table as a query, too",
    )
    parser.add_argument(
        "--min-similarity", type=float, metavar="S", help="leave out matches with a lower cosine"
    )
    parser.add_argument("--sheet", metavar="FOUND.jpg", help="draw the queries and the faces found")
    parser.add_argument("--json", action="store_true", help="print the matches as one JSON document")
    parser.add_argument(
        "--branch", metavar="BRANCH", help="code to compare (default: identity, or the table's only one)"
    )
    parser.add_argument(
        "--model",
        help="weights that made the table, if it does not name them: hf-hub:ORG/NAME, local-dir:FOLDER",
    )
    parser.add_argument(
        "--crops",
        action=argparse.BooleanOptionalAction,
        help="queries are face crops, or photos (default: same as the table's images)",
    )
    add_detector(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto")


def run(args: argparse.Namespace) -> int:
    from facepcl.embedding.search import search

    prepare_process()
    as_json = vars(args).pop("json")
    results = search(**vars(args), progress=True)
    if as_json:
        document = {"table": args.table, "queries": [_to_json(result) for result in results]}
        print(json.dumps(document, indent=2))
    else:
        none = f"{args.table} has no face to compare with"
        if args.min_similarity is not None:
            none = "no face found that is similar enough"
        print("\n\n".join("\n".join(_lines(result, none)) for result in results))
    if args.sheet:
        say(f"wrote {args.sheet}")
    return 1 if any(result.error for result in results) else 0


def _name(result: "SearchResult") -> str:
    return result.query if result.row is None else f"row {result.row}, {result.query}"


def _lines(result: "SearchResult", none: str) -> list[str]:
    """A result as a table; `none` says why it has no rows."""
    if not result.matches:
        return [f"{_name(result)}: {result.error or none}"]
    has_faces = any(match.number is not None for match in result.matches)
    lines = [f"{_name(result)}:", f"rank  similarity  {'face  ' if has_faces else ''}path"]
    for rank, match in enumerate(result.matches, 1):
        face = f"{'' if match.number is None else match.number:>4}  " if has_faces else ""
        lines.append(f"{rank:4}  {match.similarity:10.4f}  {face}{match.path}")
    return lines


def _to_json(result: "SearchResult") -> dict[str, Any]:
    matches = [
        {
            "rank": rank,
            "similarity": round(match.similarity, 6),
            "row": match.row,
            "path": match.path,
            **({"face": match.number, "box": list(match.face.box)} if match.face else {}),
        }
        for rank, match in enumerate(result.matches, 1)
    ]
    return {"query": result.query, "row": result.row, "error": result.error, "matches": matches}
