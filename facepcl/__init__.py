"""facepcl: small, general face representations as timm models.

Importing it registers `pcl_facecycle`, `pcl_resnet18` and `pcl_resnet50` with timm.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from facepcl import models as models  # registers the models
from facepcl.create import create_decoder, create_heads, create_model, download, list_models
from facepcl.errors import FacepclError

if TYPE_CHECKING:
    from facepcl import alignment as alignment
    from facepcl import demo as demo
    from facepcl import export as export
    from facepcl import hub as hub
    from facepcl import losses as losses
    from facepcl import pretrain as pretrain
    from facepcl import probes as probes
    from facepcl import views as views
    from facepcl.alignment import align
    from facepcl.data_set import read_embeddings
    from facepcl.embedding import FaceEmbedder
    from facepcl.embedding_job import embed
    from facepcl.rows import similarity

__version__ = "0.1.0"

# A library is silent until its user configures logging.
logging.getLogger("facepcl").addHandler(logging.NullHandler())

# Loaded when first used, so that `import facepcl` costs what `import timm` costs.
_LAZY_NAMES = {
    "FaceEmbedder": "facepcl.embedding",
    "align": "facepcl.alignment",
    "embed": "facepcl.embedding_job",
    "read_embeddings": "facepcl.data_set",
    "similarity": "facepcl.rows",
}
_LAZY_FILES = ("alignment", "demo", "export", "hub", "losses", "pretrain", "probes", "views")

__all__ = [
    "FaceEmbedder",
    "FacepclError",
    "align",
    "alignment",
    "create_decoder",
    "create_heads",
    "create_model",
    "demo",
    "download",
    "embed",
    "export",
    "hub",
    "list_models",
    "losses",
    "pretrain",
    "probes",
    "read_embeddings",
    "similarity",
    "views",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    if name in _LAZY_FILES:
        return importlib.import_module(f"facepcl.{name}")
    raise AttributeError(f"module 'facepcl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
