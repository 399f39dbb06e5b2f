"""pytest plugin that points timm's parametrised model tests at the models of facepcl."""

import inspect
import json
import os
import socket
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

# Tests that name a few models of timm, but test what every convolutional network has.
RETARGETED = {
    "test_features_only_grad_checkpointing_backward",
    "test_forward_after_prune_intermediate_layers",
    "test_model_forward_torchscript_with_features_fx",
    "test_prune_intermediate_layers_params_used",
    "test_reset_classifier_keeps_pool",
}
NEEDS_NETWORK = {"test_model_inference"}
LOCAL = (None, "", "127.0.0.1", "::1", "localhost", b"localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("timm_suite")
    group.addoption("--suite-pass", help="models or registry")
    group.addoption("--suite-models", help="pattern of the models to test")
    group.addoption("--suite-output", help="JSON file for the results")


def pytest_configure(config: pytest.Config) -> None:
    block_network()
    config.pluginmanager.register(Suite(config.option))


def block_network() -> None:
    """Raise where a test connects to another machine or looks one up."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def local_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise OSError(f"a test tried to reach {address[0]}")
        return connect(self, address)

    def local_look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host not in LOCAL:
            raise socket.gaierror(f"a test tried to look up {host!r}")
        return look_up(host, *args, **options)

    socket.socket.connect = local_connect  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = local_look_up


class Suite:
    """Selects the tests of a pass and records how they end."""

    def __init__(self, option: Any) -> None:
        import timm
        from timm.models import _registry as registry

        before = dict(registry._model_entrypoints)
        import facepcl  # noqa: F401  (registers its models)

        replaced = [n for n, entry in before.items() if registry._model_entrypoints[n] is not entry]
        if replaced:
            raise pytest.UsageError(f"importing facepcl replaced timm's {', '.join(sorted(replaced))}")
        added = [name for name in timm.list_models() if name not in before]
        self.models = [name for name in added if fnmatchcase(name, option.suite_models)]
        if not self.models:
            raise pytest.UsageError(
                f"no model of facepcl matches {option.suite_models!r}; there are {', '.join(added)}"
            )
        self.is_models = option.suite_pass == "models"
        self.output = option.suite_output
        self.passed: set[str] = set()
        self.failed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.patch = pytest.MonkeyPatch()
        if self.is_models:  # while the test modules are imported
            for holder in (timm, timm.models, registry):
                self.patch.setattr(holder, "list_models", self.restricted(registry.list_models))

    def wants(self, name: str) -> bool:
        """Whether a model, or the model of `name.tag`, is to be tested."""
        return name.partition(".")[0] in self.models

    def restricted(self, list_models: Callable[..., list[str]]) -> Callable[..., list[str]]:
        """timm's `list_models` without other models, and without weights that are not on this machine."""
        import timm

        signature = inspect.signature(list_models)

        def of_suite(*args: Any, **options: Any) -> list[str]:
            bound = signature.bind(*args, **options)
            # timm names the modules whose models have forward_intermediates; facepcl's must have it
            bound.arguments.pop("module", None)
            names = [name for name in list_models(*bound.args, **bound.kwargs) if self.wants(name)]
            if bound.arguments.get("pretrained"):
                remote = [n for n in names if not _is_local(timm.models.get_pretrained_cfg(n))]
                self.left_out |= dict.fromkeys(remote, "its weights are not on this machine")
                names = [name for name in names if name not in remote]
            return names

        return of_suite

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, name: str, obj: Any) -> None:
        if self.is_models and name in RETARGETED:
            ours = pytest.mark.parametrize("model_name", self.models).mark
            obj.pytestmark = [
                ours if mark.name == "parametrize" and mark.args[0] == "model_name" else mark
                for mark in obj.pytestmark
            ]

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Function]) -> None:
        if not self.is_models:
            return
        selected, others = [], []
        for item in items:
            model = item.callspec.params.get("model_name", "") if hasattr(item, "callspec") else ""
            if item.originalname in NEEDS_NETWORK:
                self.left_out[item.originalname] = "it needs the network"
            elif not isinstance(model, str):  # parametrised with an empty list
                if "pretrained" in item.originalname:
                    self.skipped[item.originalname] = "no model has weights on this machine"
            elif self.wants(model):
                selected.append(item)
                continue
            others.append(item)
        items[:] = selected
        config.hook.pytest_deselected(items=others)

    def pytest_collection_finish(self) -> None:
        self.patch.undo()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = _reason(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[2]
        if report.failed:
            self.failed.setdefault(name, _reason(report))
        elif report.skipped:
            self.skipped[name] = _reason(report)
        elif report.when == "call":
            self.passed.add(name)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):  # pytest-xdist: the controller has all reports
            return
        kinds: dict[str, Sequence[str] | dict[str, str]] = {
            "models": self.models,
            "passed": sorted(self.passed - self.failed.keys()),
            "failed": self.failed,
            "skipped": self.skipped,
            "left_out": self.left_out,
        }
        Path(self.output).write_text(json.dumps(kinds), "utf-8")


def _is_local(config: Any) -> bool:
    return bool(config and config.file and os.path.exists(config.file))


def _reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).split("\n")
    return " ".join(line.strip() for line in lines[:2])[:300]
