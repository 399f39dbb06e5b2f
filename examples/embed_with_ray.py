"""Embed tar shards on a Ray cluster: crops are decoded on all cores, and embedded by a pool of actors.

    pip install '.[ray]'
    python examples/embed_with_ray.py shards/ -o embeddings-ray/ --actors 2

Starts Ray on this machine, or joins the cluster that --address (or RAY_ADDRESS) names; `--gpus 1` gives each
actor a GPU (without, Ray has the actors decode too). OUT is a folder of Parquet files with the rows of
`facepcl embed` and a column `shard`; `facepcl.read_embeddings(OUT)` reads it as one table. Pixels travel as
uint8, 12 kB a crop of 64 px, until they are in the model. A worker that dies is replaced by Ray, and its part
is done again. Ray listens on every network of the machine; from 2.60 on it asks for a token by itself.

Ray pays where decoding and network want different machines. One machine, a SLURM array, or a job that has to
go on after an interruption are simpler by `facepcl embed --resume` (docs/scaling.md).
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import ray

import facepcl
from facepcl.data.sources import Entry, list_entries, read_items
from facepcl.embedding.embeddings import Embeddings
from facepcl.embedding.parquet_table import to_arrow
from facepcl.errors import FacepclError, MissingPath
from facepcl.images.decode import decode_reduced
from facepcl.images.transform import Transform

ROWS = 1024  # that are decoded together, a block of Ray's


def decode(batch: dict[str, Any], transform: Transform) -> Iterator[dict[str, Any]]:
    """The images of one shard, or one file, as uint8 pixels, and reasons where there are none."""
    (number,), (path,), (error,) = batch["shard"], batch["path"], batch["error"]
    rows: list[dict[str, Any]] = []
    for index, item in enumerate(read_items([Entry(path, error or None)])):
        size, pixels, reason = (0, 0), np.zeros(transform.shape, np.uint8), ""
        try:
            picture = decode_reduced(item.read(), transform.needed)
            size, pixels = picture.size, transform(*picture)
        except MissingPath:
            reason = "there is no such file"
        except FacepclError as told:
            reason = str(told)
        names = ("shard", "path", "index", "error", "width", "height", "pixels")
        rows.append(dict(zip(names, (number, item.path, index, reason, *size, pixels), strict=True)))
        if len(rows) == ROWS:
            yield _columns(rows)
            rows = []
    if rows:
        yield _columns(rows)


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


class Embed:
    """An actor: the model is loaded once, then pixels become rows."""

    def __init__(self, options: dict[str, Any]):
        self.embedder = facepcl.FaceEmbedder(**options)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        good, meta = batch["error"] == "", self.embedder.meta
        vectors = np.full((len(good), meta["dimension"]), np.nan, np.float32)
        vectors[good] = self.embedder(list(batch["pixels"][good]))
        errors = [error or None for error in batch["error"].tolist()]
        sizes = np.stack([batch["width"], batch["height"]], 1)
        rows = Embeddings(vectors, batch["path"].tolist(), errors, sizes, meta)
        table = to_arrow(meta, rows, batch["index"])
        return table.add_column(0, "shard", pa.array(batch["shard"], pa.int64()))


def run(
    sources: Sequence[str], out: str, options: dict[str, Any], actors: int, gpus: float, address: str | None
) -> int:
    """Embed `sources` into the folder `out`; how many rows that made."""
    if Path(out).exists():
        raise SystemExit(f"{out} is there already; name a new folder")
    entries = list(list_entries(sources))
    probe = facepcl.FaceEmbedder(**{**options, "device": "cpu"})  # of which only how it prepares images
    # one core more than the actors hold: whoever writes needs it
    local = {"include_dashboard": False, "num_cpus": max(actors + 1, os.cpu_count() or 1)}
    joins = address or os.environ.get("RAY_ADDRESS")
    with ray.init(joins or "local", logging_level="warning", **({} if joins else local)):
        if not gpus and actors >= (there := ray.cluster_resources().get("CPU", 0)):
            raise SystemExit(f"--actors {actors}: of {there:g} cores one must be left to whoever writes")
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        listed = [{"shard": i, "path": e.path, "error": e.error or ""} for i, e in enumerate(entries)]
        rows = (
            ray.data.from_items(listed, override_num_blocks=len(listed))
            .map_batches(decode, batch_size=1, fn_kwargs={"transform": probe.transform})
            .map_batches(
                Embed,
                fn_constructor_args=(options,),
                batch_size=probe.batch_size,
                compute=ray.data.ActorPoolStrategy(size=actors),
                num_gpus=gpus or None,
            )
        )
        rows.write_parquet(os.path.abspath(out))
    return sum(pa.parquet.read_metadata(path).num_rows for path in Path(out).glob("*.parquet"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", nargs="+", help="tar shards, folders, files, globs, URLs")
    parser.add_argument("-o", "--out", required=True, help="new folder of Parquet files")
    parser.add_argument("--model", default="pcl_facecycle")
    parser.add_argument("--branch", default="shared", help="as of facepcl embed")
    parser.add_argument("--dtype", default="float32", help="the same on all machines")
    parser.add_argument("--actors", type=int, default=2, help="how many processes embed")
    parser.add_argument("--gpus", type=float, default=0, help="of each actor; 0.5 puts two on one")
    parser.add_argument("--address", help="of a Ray cluster, such as auto; without one it is this machine")
    args = parser.parse_args()
    options = {"model": args.model, "branch": args.branch, "dtype": args.dtype}
    count = run(args.source, args.out, options, args.actors, args.gpus, args.address)
    print(f"wrote {count} rows to {args.out}")


if __name__ == "__main__":
    main()
