"""The unfinished work behind a table: a folder beside it with the listing and the parts that are done."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.data.shards import stamp, unchanged
from facepcl.data.sources import Entry, is_shard_name, where_relative
from facepcl.embedding.embeddings import ROWS_A_GROUP, Embeddings, describe_space
from facepcl.embedding.tables import read_embeddings, write_table
from facepcl.errors import TableError
from facepcl.utils.files import atomic
from facepcl.utils.lock import LOCK, locked

_logger = logging.getLogger("facepcl")

FOLDER, JOB, LISTING = ".parts", "job.json", "listing.jsonl"


class Unfinished:
    """What is done of the table at `out`, in the folder `OUT.parts`.

    `job.json` says what is being done, `listing.jsonl` over which files and shards, and each
    `part-NUMBER.npz` is a table of the next `ROWS_A_GROUP` images, written under another name and renamed.
    All parts but the last are full, so a part's number tells its images. Each has one row, or, where faces
    are looked for, a row for each face.
    """

    def __init__(self, out: Path):
        self.out = out
        self.folder = out.with_name(out.name + FOLDER)

    @property
    def parts(self) -> list[Path]:
        """The parts that are done, in order."""
        return sorted(self.folder.glob("part-*.npz"))

    @property
    def rows_done(self) -> int:
        """How many rows the parts hold."""
        if not (parts := self.parts):
            return 0
        last = read_embeddings(parts[-1], vectors=False)
        if last.faces is None:
            return (len(parts) - 1) * ROWS_A_GROUP + len(last)
        return sum(len(read_embeddings(part, vectors=False)) for part in parts)

    @property
    def images_done(self) -> int:
        """How many images the parts hold."""
        if not (parts := self.parts):
            return 0
        return (len(parts) - 1) * ROWS_A_GROUP + read_embeddings(parts[-1], vectors=False).images

    @property
    def meta(self) -> dict[str, Any]:
        """Of the table: what its last part says."""
        return read_embeddings(self.parts[-1], vectors=False).meta

    def read_job(self) -> dict[str, Any] | None:
        """What this folder's job was begun with, or None if it was not begun."""
        path = self.folder / JOB
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

    def begin(self, job: dict[str, Any], entries: Iterable[Entry]) -> None:
        """List what is to be done; `job.json` comes last and makes the folder a job."""
        self.clear()
        images: int | None = 0  # None where shards do not tell how many there are
        with atomic(self.folder / LISTING) as temporary, temporary.open("w", encoding="ascii") as file:
            for entry in entries:
                file.write(json.dumps([*entry, stamp(entry)]) + "\n")
                images = None if images is None or is_shard_name(entry.path) else images + 1
        with atomic(self.folder / JOB) as temporary:
            temporary.write_text(json.dumps({**job, "images": images}, indent=2), "utf-8")

    def entries(self) -> Iterator[Entry]:
        """The listing. Raises TableError if a shard is not the one that was listed."""
        with (self.folder / LISTING).open(encoding="ascii") as file:
            yield from unchanged(map(json.loads, file), self.out, self.folder)

    def write(self, number: int, blocks: Sequence[Embeddings], sample: dict[str, np.ndarray] | None) -> None:
        """Add part `number`, and beside it what the sheet keeps of it."""
        if sample:
            with atomic(self.folder / f"sample-{number:08d}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **sample)  # type: ignore[arg-type]
        write_table(self.folder / f"part-{number:08d}.npz", blocks[0].meta, blocks, sum(map(len, blocks)))

    def samples(self) -> Iterator[dict[str, np.ndarray]]:
        """What the sheet kept of the parts that are done."""
        for part in self.parts:
            path = part.with_name(part.name.replace("part", "sample"))
            if path.is_file():
                with np.load(path, allow_pickle=False) as sample:
                    yield dict(sample)

    def read(self) -> Iterator[Embeddings]:
        """The parts' rows. Raises TableError if one is damaged."""
        return map(read_embeddings, self.parts)

    def tell(self) -> None:
        """Say what is kept, to somebody whose work was interrupted."""
        if self.parts:
            _logger.warning(
                "%s rows are done and kept in %s; the same command with --resume goes on from there",
                f"{self.rows_done:,}",
                self.folder,
            )

    def clear(self) -> None:
        """Empty the folder, but for its lock; `job.json` goes first and takes the job with it."""
        (self.folder / JOB).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()


@contextmanager
def unfinished(out: Path) -> Iterator[Unfinished]:
    """The work behind `out`, for one process at a time; what is left of it goes when the table is there.

    Raises OptionError if another process works on it.
    """
    work = Unfinished(out)
    refusal = f"{out}: another process is writing it; wait for it, or choose another name"
    with locked(work.folder, refusal, lambda: bool(work.parts)):
        yield work


def describe_job(meta: dict[str, Any], sources: list[str], sheet: bool) -> dict[str, Any]:
    """What a job must have been begun with to go on."""
    job = {"meta": meta, "dtype": meta["dtype"], "sources": sources, "folder": where_relative(sources)}
    return {**job, "sheet": sheet, "align": meta.get("align")}


def check_resumable(out: Path, work: Path, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise TableError unless the job that was begun in the folder `work` is the one `wanted`: space, dtype,
    sources, sheet, alignment."""
    if begun["meta"]["space"] != wanted["meta"]["space"]:
        raise TableError(
            f"{out} was begun in the space {describe_space(begun['meta'])}, this would go on in "
            f"{describe_space(wanted['meta'])}; use the same model, branch and pool, or delete {work}"
        )
    for name, value in wanted.items():
        if name != "meta" and begun.get(name) != value:
            raise TableError(
                f"{out} was begun with {name} {_words(begun.get(name))}, not {_words(value)}; "
                f"repeat the command as it was, or delete {work}"
            )


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {words}" for name, words in value.items())
    return ", ".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
