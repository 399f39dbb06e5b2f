"""facepcl: small, general face representations as timm models.

Importing it registers `pcl_facecycle`, `pcl_resnet18` and `pcl_resnet50` with timm, once timm is imported.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from facepcl._version import __version__ as __version__
from facepcl.errors import FacepclError, MissingPath
from facepcl.models.timm_hook import register_models

if TYPE_CHECKING:
    from facepcl import alignment as alignment
    from facepcl import demo as demo
    from facepcl import export as export
    from facepcl import hub as hub
    from facepcl import losses as losses
    from facepcl import models as models
    from facepcl import pretrain as pretrain
    from facepcl import probes as probes
    from facepcl import views as views
    from facepcl.alignment import align
    from facepcl.analysis import FaceAnalyzer, analyze
    from facepcl.embedding.embedder import FaceEmbedder
    from facepcl.embedding.embeddings import similarity
    from facepcl.embedding.job import embed
    from facepcl.embedding.search import search
    from facepcl.embedding.tables import read_embeddings
    from facepcl.models.factory import create_decoder, create_heads, create_model, download
    from facepcl.models.registry import list_models

if not os.path.isfile(os.path.join(os.path.dirname(__file__), "weights", "index.json")):
    raise MissingPath(
        f"facepcl cannot run from {os.path.dirname(__file__)}: weights/index.json is not a file there; "
        "unpack the package to a folder if it is in a zip file or a frozen program"
    )

register_models()

# Loaded when first used: `import facepcl` takes milliseconds.
_LAZY_NAMES = {
    **dict.fromkeys(("create_decoder", "create_heads", "create_model", "download"), "facepcl.models.factory"),
    "list_models": "facepcl.models.registry",
    "FaceAnalyzer": "facepcl.analysis",
    "FaceEmbedder": "facepcl.embedding.embedder",
    "align": "facepcl.alignment",
    "analyze": "facepcl.analysis",
    "embed": "facepcl.embedding.job",
    "read_embeddings": "facepcl.embedding.tables",
    "search": "facepcl.embedding.search",
    "similarity": "facepcl.embedding.embeddings",
}

__all__ = [
    "FaceAnalyzer",
    "FaceEmbedder",
    "FacepclError",
    "align",
    "alignment",
    "analyze",
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
    "search",
    "similarity",
    "views",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"facepcl.{name}")
    raise AttributeError(f"module 'facepcl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
