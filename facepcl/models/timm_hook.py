"""Registration of the models with timm, without importing timm (seconds) for those who do not use it."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

TIMM = "timm.models"
REGISTERING = ("facepcl.models.pcl_facecycle", "facepcl.models.pcl_resnet")  # when they are imported


def register_models() -> None:
    """Register the models at once where timm is loaded, else right after `timm.models` is imported."""
    if TIMM in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


def _register() -> None:
    for name in REGISTERING:
        importlib.import_module(name)


class _AfterTimm(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != TIMM:
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
