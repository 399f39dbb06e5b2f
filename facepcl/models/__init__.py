"""The networks, and what finds, reads and writes their weights."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facepcl.models.branches import Branches
    from facepcl.models.pcl_facecycle import PclFaceCycle
    from facepcl.models.pcl_resnet import PclResNet

__all__ = ["Branches", "PclFaceCycle", "PclResNet"]

# The files that register a model with timm when they are imported.
REGISTERING = ("facepcl.models.pcl_facecycle", "facepcl.models.pcl_resnet")
_FILES = {"Branches": "branches", "PclFaceCycle": "pcl_facecycle", "PclResNet": "pcl_resnet"}


def __getattr__(name: str) -> Any:
    """Load a class when it is first used: the registry of weights lies beside it and needs no torch."""
    if name in _FILES:
        return getattr(importlib.import_module(f"facepcl.models.{_FILES[name]}"), name)
    raise AttributeError(f"module 'facepcl.models' has no attribute {name!r}")
