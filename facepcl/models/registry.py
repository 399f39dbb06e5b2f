"""What weights exist: the rows of `weights/index.json`. Pure data; imports neither torch nor the models."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from facepcl.utils.files import write_text

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


@dataclass(frozen=True)
class Row:
    """Weights of one (model, tag): their files, hashes, licence, training data and scores."""

    model: str
    tag: str
    sha256: str
    bytes: int
    license: str
    training_data: str
    command: str
    file: str | None = None  # bundled, in `facepcl/weights/`
    hf_hub_id: str | None = None  # ORG/NAME@REVISION
    hub_sha256: dict[str, str] = field(default_factory=dict)  # of the files there, by name
    input_size: int | None = None  # pixels they were trained at (none: the model's own)
    heads: dict[str, Any] = field(default_factory=dict)  # bundled, as config.json describes them
    metrics: dict[str, Any] = field(default_factory=dict)
    # of identity, of pairs of LFW: percentiles 1, 50 and 99 of `same` and `different` people, `thresholds` at
    # false accept rates with the share of same people that they accept, `thresholds_flip` those with flip
    cosines: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The bundled file, or None if this installation has none."""
        path = WEIGHTS / self.file if self.file else None
        return path if path and path.is_file() else None


@cache
def read_index() -> tuple[Row, ...]:
    """All rows, in the order of the file."""
    return tuple(Row(**row) for row in json.loads((WEIGHTS / "index.json").read_text("utf-8"))["weights"])


def write_index(rows: Iterable[Row]) -> None:
    """Replace the index by these rows."""
    text = json.dumps({"weights": [asdict(row) for row in rows]}, indent=2) + "\n"
    write_text(WEIGHTS / "index.json", text)
    read_index.cache_clear()


def rows_of(model: str) -> tuple[Row, ...]:
    """The rows of one architecture; the first is its default."""
    return tuple(row for row in read_index() if row.model == model)


@dataclass(frozen=True)
class ModelInfo:
    """One line of `list_models`: a model and the weights it can be had with."""

    name: str
    tag: str | None
    parameters: int  # of the trunk and both branches
    input_size: tuple[int, int, int]
    license: str | None  # of the weights
    weights: str  # "bundled", "Hub ORG/NAME@REVISION" or "none"


# Parameters of the trunk and both branches, and the side of the default input in pixels.
MODELS = {
    "pcl_facecycle": (2_469_760, 64),
    "pcl_resnet18": (11_603_008, 128),
    "pcl_resnet50": (24_327_744, 128),
}


def list_models() -> list[ModelInfo]:
    """List the models and their weights: name, tag, parameters, input size, licence and source."""
    models = []
    for name, (parameters, size) in MODELS.items():
        for row in rows_of(name):
            weights = "bundled" if row.path else f"Hub {row.hf_hub_id}" if row.hf_hub_id else "none"
            side = row.input_size or size
            models.append(ModelInfo(name, row.tag, parameters, (3, side, side), row.license, weights))
        if not rows_of(name):
            models.append(ModelInfo(name, None, parameters, (3, size, size), None, "none"))
    return models
