"""Write the parts of README.md that follow from other files: python tools/readme.py

The table of models comes from MODEL_CARD.md, the index of weights and results/; a block of ```text is
the output of the block of code before it. Run it after weights or figures have changed.
"""

import csv
import io
import json
import os
import re
import shlex
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SPEEDS = ROOT / "results/infer-avx512_bf16.csv"  # benchmarks/zoo.py
FACECYCLE = ("FaceCycle, published", "", "", "48.8", "73.7", "", "")  # MODEL_CARD.md, "Results"
BLOCK = re.compile(r"```(python|bash)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def card_table(name: str) -> str:
    """The table of MODEL_CARD.md between the marks of this name."""
    card = (ROOT / "MODEL_CARD.md").read_text("utf-8")
    return re.search(rf"<!-- {name} -->\n\n(.*?)\n\n?<!-- end of {name} -->", card, re.DOTALL)[1]  # type: ignore[index]


def card_rows(name: str) -> list[list[str]]:
    """The cells of a table of MODEL_CARD.md, without its heading."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in card_table(name).splitlines()[2:]
    ]


def bundled_weights() -> list[dict[str, Any]]:
    """The rows of the index."""
    return json.loads((ROOT / "facepcl/weights/index.json").read_text("utf-8"))["weights"]


def models_table() -> str:
    """The README's table of models and baselines."""
    scores = {tuple(row[:2]): [cell.partition(" ")[0] for cell in row[2:]] for row in card_rows("scores")}
    lines = [
        "| model | parameters | input | FER-2013 % | LFW % | head pose ° | ms per image |",
        "|---|---|---|---|---|---|---|",
    ]
    shown = set()
    for weights in bundled_weights():
        name, side = weights["model"], weights["input_size"]
        full = f"{name}.{weights['tag']}"
        shared, pose = (scores[full, code] for code in ("shared", "pose"))
        lfw = scores.get((full, "identity"), shared)[1]
        speed = _speed(name)
        parameters = f"{float(speed['param_count']):.1f} M"
        milliseconds = f"{1000 / float(speed['infer_samples_per_sec']):.1f}"
        label = full if name in shown else name  # the first of a model is its default
        shown.add(name)
        lines.append(_row(f"`{label}`", parameters, f"{side} px", shared[0], lfw, pose[3], milliseconds))
    for title, label in (("hog", "HOG"), ("pcl_facecycle, random", "random initialisation")):
        fer, lfw, _, pose, *_ = scores[title, "shared"]
        lines.append(_row(label, "", "", fer, lfw, pose, ""))
    return "\n".join([*lines, _row(*FACECYCLE)])


def _speed(model: str) -> dict[str, str]:
    """The measured row of a model in bfloat16 and batches of 64."""
    with SPEEDS.open(newline="", encoding="utf-8") as table:
        rows = {(row["model"], row["dtype"], row["infer_batch_size"]): row for row in csv.DictReader(table)}
    return rows[model, "bfloat16", "64"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def outputs(text: str) -> list[tuple[str, str]]:
    """Run the blocks of code in a folder with examples/; the printed and the written output of each."""
    found, working_folder = [], Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.symlink(ROOT / "examples", "examples")
        for language, code, written in BLOCK.findall(text):
            printed = io.StringIO()
            with redirect_stdout(printed):
                if language == "python":
                    exec(code, {})
                else:
                    _run(code)
            found.append((re.sub(r"(?m)^wrote .*\n", "", printed.getvalue()), written))  # not the files
        os.chdir(working_folder)
    return found


def _run(code: str) -> None:
    """The commands of facepcl in a block, in this process."""
    from facepcl.cli import main

    for line in code.splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "facepcl" and main(words):
            raise RuntimeError(f"this failed: {line}")


def main() -> None:
    sys.path.insert(0, str(ROOT))
    text = README.read_text("utf-8")
    marks = "<!-- models -->\n", "<!-- end of models -->"
    before, _, rest = text.partition(marks[0])
    text = f"{before}{marks[0]}\n{models_table()}\n\n{marks[1]}{rest.partition(marks[1])[2]}"
    printed = iter([new for new, _ in outputs(text)])

    def renewed(block: re.Match[str]) -> str:
        output, code = next(printed), f"```{block[1]}\n{block[2]}```\n"
        return code if block[3] is None else f"{code}\n```text\n{output}```\n"

    README.write_text(BLOCK.sub(renewed, text), "utf-8")


if __name__ == "__main__":
    main()
