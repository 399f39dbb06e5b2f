"""Runs the cases in processes of their own, so that a crash, a hang or a flood of memory is an outcome."""

import argparse
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 30.0  # that a case may take, on a machine that is busy
ROOM = 2 << 30  # bytes that a case may take beyond what the process has
FINE = "read"
BAD = ("crash", "hang", "other error")
TOOLS, ROOT = Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """0: every case ended in what it holds or in a named error; 1: some did not, and are kept in --keep."""
    parser = argparse.ArgumentParser(
        prog="python tools/fuzz",
        description="Feed the readers of facepcl with damaged files: each must end in a vector (or whatever "
        "it holds) or in a FacepclError; never in a crash, a hang, another exception or a flood of memory.",
        epilog="example: python tools/fuzz --cases 2000 --seed 1 --only png",
    )
    parser.add_argument("--cases", type=int, default=1000, help="in all (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other files (default: 0)")
    parser.add_argument("--only", help="one subject: jpeg, png, tar, safetensors, labels, ...")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for files that fail")
    parser.add_argument("--json", type=Path, help="write the counts there")
    parser.add_argument("--serve", nargs=3, metavar=("SUBJECT", "FROM", "TO"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        name, start, end = args.serve
        return serve(name, args.seed, int(start), int(end))
    found: dict[str, dict[str, Any]] = {}
    for name, counts in run(args.cases, args.seed, args.keep, args.only):
        found[name] = counts
        print(f"{name}: {counts}", file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    print(table(found))
    bad = bad_cases(found)
    print(
        f"{bad} cases ended as none may; their files are in {args.keep}" if bad else "all ended as they may"
    )
    return 1 if bad else 0


def serve(name: str, seed: int, start: int, end: int) -> int:
    """In a child: run the cases, saying on standard output which one begins and how each ended."""
    from facepcl.errors import FacepclError
    from fuzz.subjects import SUBJECTS

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    logging.disable(logging.CRITICAL)
    subject = next(s for s in SUBJECTS if s.name == name)
    seeds = subject.seeds()
    with tempfile.TemporaryDirectory() as folder:
        for data in seeds:  # the good files are good; and what is loaded is loaded before memory is bounded
            subject.run(data, Path(folder))
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # codecs print
            os.dup2(nothing, stream)
        _bound_memory()
        for number in range(start, end):
            data = subject.case(seeds, seed, number)
            print(json.dumps({"begins": number}), file=answers)
            try:
                subject.run(data, Path(folder))
                outcome = [FINE, ""]
            except FacepclError as error:
                outcome = [type(error).__name__, str(error)]
            except BaseException as error:
                outcome = ["other error", f"{type(error).__name__}: {error}"]
            print(json.dumps({"ended": outcome, "mb": _peak_mb()}), file=answers)
    return 0


def _bound_memory() -> None:
    with suppress(ImportError, OSError, ValueError):  # Linux; elsewhere the peak is reported and no more
        import resource

        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmData"))
        now = int(line.split()[1]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (now + ROOM, resource.RLIM_INFINITY))


def _peak_mb() -> int:
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
    return 0


def run(cases: int, seed: int, keep: Path, only: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Counts of outcomes of each subject; the files of those that must not be are written to `keep`."""
    from fuzz.subjects import SUBJECTS

    for subject in SUBJECTS:
        if only not in (None, subject.name):
            continue
        total = cases if only else max(1, cases * subject.share // 100)
        start, counts, peak = time.monotonic(), Counter[str](), 0
        number, seeds = 0, None
        while number < total:
            ended, peak_here, said = _drive(subject.name, seed, number, total)
            peak = max(peak, peak_here)
            for kind, words in ended:
                counts[kind] += 1
                if kind in BAD:
                    seeds = seeds or subject.seeds()
                    keep.mkdir(parents=True, exist_ok=True)
                    stem = f"{subject.name.replace(' ', '-')}-{seed}-{number}"
                    (keep / stem).write_bytes(subject.case(seeds, seed, number))
                    (keep / f"{stem}.txt").write_text(f"{kind}: {words}\n", "utf-8", "backslashreplace")
                number += 1
            if not ended:
                raise RuntimeError(f"the cases of {subject.name} do not begin: {said}")
        seconds = round(time.monotonic() - start, 1)
        yield subject.name, {**counts, "cases": total, "peak_mb": peak, "seconds": seconds}


def _drive(name: str, seed: int, start: int, end: int) -> tuple[list[tuple[str, str]], int, str]:
    """One child from case `start` on, until the end or its own: how each case ended, and its peak."""
    command = [sys.executable, str(TOOLS / "fuzz"), "--seed", str(seed)]
    command += ["--serve", name, str(start), str(end)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended: list[tuple[str, str]] = []
    peak, is_open = 0, False
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=environment,
        ) as child,
    ):
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=SECONDS if is_open else 300)
            except queue.Empty:
                child.kill()
                ended += [("hang", f"longer than {SECONDS:g} s")] if is_open else []
                break
            if not line:
                code = child.wait()
                ended += [("crash", f"exit code {code}")] if is_open else []
                break
            answer = json.loads(line)
            is_open = "begins" in answer
            if not is_open:
                kind, words = answer["ended"]
                ended.append((kind, words))
                peak = max(peak, answer["mb"])
        child.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")[-2000:]
    return ended, peak, said


def _read_lines(stream: Any, to: "queue.SimpleQueue[bytes]") -> None:
    for line in stream:
        to.put(line)
    to.put(b"")


def bad_cases(found: dict[str, dict[str, Any]]) -> int:
    """How many cases ended as none may."""
    return sum(counts[kind] for counts in found.values() for kind in BAD if kind in counts)


def table(found: dict[str, dict[str, Any]]) -> str:
    """The counts as Markdown."""
    lines = [
        "| files | cases | read | named errors | otherwise | peak MB | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, counts in found.items():
        kinds = {k: n for k, n in counts.items() if k not in ("cases", "peak_mb", "seconds", FINE, *BAD)}
        named = ", ".join(f"{kind} {n:,}" for kind, n in sorted(kinds.items()))
        bad = ", ".join(f"{kind} {counts[kind]:,}" for kind in BAD if kind in counts) or "0"
        lines.append(
            f"| {name} | {counts['cases']:,} | {counts.get(FINE, 0):,} | {named} | {bad} "
            f"| {counts['peak_mb']:,} | {counts['seconds']:g} |"
        )
    total = sum(counts["cases"] for counts in found.values())
    return "\n".join([*lines, f"| all | {total:,} | | | {bad_cases(found):,} | | |"])
