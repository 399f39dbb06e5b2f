"""Fetch the tests of the installed timm and run them on facepcl's models, a pytest process for each pass."""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

TOOLS, ROOT = Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2]
PASSES = {
    "models": ("tests/test_models.py", "tests/test_prune.py"),
    "registry": ("tests/test_factory.py", "tests/test_hub.py"),
}
UNAVAILABLE = 3


class Unavailable(Exception):
    """timm's tests cannot be downloaded or are not in the file."""


class Results(NamedTuple):
    """How the tests of a pass ended: names, with the reasons of the failed and the skipped."""

    models: list[str]
    passed: list[str]
    failed: dict[str, str]
    skipped: dict[str, str]
    left_out: dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """0: all passed; 1: a test failed, or none ran; 3: timm's tests are not available."""
    parser = argparse.ArgumentParser(
        prog="python tools/timm_suite",
        description="Run timm's own model and registry tests on the models of facepcl. pip downloads the "
        "tests, those of the installed timm, once; they run without network access.",
        epilog="example: python tools/timm_suite --models pcl_resnet18 --only models -k features -- -x",
    )
    parser.add_argument("--models", default="*", metavar="PATTERN", help="models of facepcl (default: all)")
    parser.add_argument("--only", choices=PASSES, help="run one pass")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests that match this pytest expression")
    parser.add_argument("--sdist", type=Path, help="source distribution to use instead of downloading it")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for timm's tests")
    parser.add_argument("--quiet", action="store_true", help="hide the output of pytest")
    parser.add_argument("pytest", nargs="*", help="options for pytest, after --")
    args = parser.parse_args(argv)
    started = time.monotonic()
    options = [*(["-k", args.k] if args.k else []), *args.pytest]
    passes = [args.only] if args.only else list(PASSES)
    try:
        tests = timm_tests(args.cache, args.sdist)
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return UNAVAILABLE
    results, errors = [], []
    for name in passes:
        try:
            results.append(run_pass(name, tests, args.models, options, args.quiet))
        except RuntimeError as error:
            errors.append(f"{name}: {error}")
    print(f"\ntimm {version('timm')}, torch {version('torch')}, Python {sys.version.split()[0]}")
    for result in results:
        for heading in ("left_out", "skipped", "failed"):
            for test, reason in getattr(result, heading).items():
                print(f"  {heading.replace('_', ' ')}: {test}: {reason}")
    for error in errors:
        print(f"  error: {error}")
    passed, failed, skipped = (
        sum(len(getattr(r, kind)) for r in results) for kind in ("passed", "failed", "skipped")
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped ({time.monotonic() - started:.0f} s)")
    return 0 if passed and not failed and not errors else 1


def default_cache() -> Path:
    """facepcl/timm_suite in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facepcl" / "timm_suite"


def timm_tests(cache: Path, sdist: Path | None = None) -> Path:
    """The folder that holds `tests/` of the installed timm, and not `timm/`, which would shadow it."""
    name = f"timm-{version('timm')}"
    folder = cache / name
    if (folder / "tests/test_models.py").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        sdist = sdist or _download(Path(temporary))
        try:
            with tarfile.open(sdist) as tar:
                members = [member for member in tar if member.name.startswith(f"{name}/tests/")]
                tar.extractall(temporary, members, filter="data")
        except (OSError, tarfile.TarError) as error:
            reason = str(error).partition("\n")[0]
            raise Unavailable(f"cannot read {sdist} ({reason}); pass --sdist {name}.tar.gz") from error
        extracted = Path(temporary, name)
        if not (extracted / "tests/test_models.py").is_file():
            raise Unavailable(f"{sdist} has no {name}/tests/test_models.py; pass --sdist {name}.tar.gz")
        try:
            extracted.rename(folder)
        except OSError:  # another process was faster
            if not (folder / "tests/test_models.py").is_file():
                raise
    return folder


def _download(folder: Path) -> Path:
    wanted = f"timm=={version('timm')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--no-deps"]
    command += ["--no-binary", "timm", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    found = list(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Unavailable(f"cannot download the source of {wanted} ({reason}); pass --sdist FILE")
    return found[0]


def run_pass(
    name: str, tests: Path, models: str = "*", options: Sequence[str] = (), quiet: bool = True
) -> Results:
    """Run one of `PASSES` on the models that match; `tests` comes from `timm_tests`.

    Raises:
        RuntimeError: If pytest ends with an error other than failed tests.
    """
    with tempfile.TemporaryDirectory() as temporary:
        settings, output = Path(temporary, "pytest.ini"), Path(temporary, "results.json")
        settings.write_text("[pytest]\n")  # not those of this project or of a folder above the cache
        command = [sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir", str(tests)]
        command += ["-p", "timm_suite.plugin", "-p", "no:cacheprovider", "-p", "no:timeout", "-q"]
        command += ["--no-header", "--tb=short", "--disable-warnings", "--suite-output", str(output)]
        command += ["--suite-pass", name, "--suite-models", models, *options, *PASSES[name]]
        paths = [str(TOOLS), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        # timm leaves tests out where it sees GITHUB_ACTIONS
        environment = {k: v for k, v in os.environ.items() if k not in ("GITHUB_ACTIONS", "PYTEST_ADDOPTS")}
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        for variable, value in {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items():
            environment.setdefault(variable, value)
        stream = subprocess.PIPE if quiet else None
        done = subprocess.run(command, env=environment, cwd=tests, stdout=stream, stderr=stream, text=True)
        if done.returncode not in (0, 1) or not output.is_file():
            printed = f"{done.stdout or ''}{done.stderr or ''}".strip()[-2000:]
            raise RuntimeError(f"pytest ended with exit code {done.returncode}\n{printed}".strip())
        return Results(**json.loads(output.read_text("utf-8")))
