"""The model card of a folder of weights: metadata that the Hub reads, and calls that load them."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facepcl.errors import OptionError
from facepcl.models.io import (
    BRANCHES_FILE,
    DECODER_FILE,
    HEADS_FILE,
    ORIGINAL_HEADS_FILE,
    STOCK_NAMES,
    read_config,
)

CARD_FILE = "README.md"
PAPER = "https://arxiv.org/abs/2211.13490"
# Common identifiers that the Hub knows; another licence becomes `other`, with its name beside it.
HUB_LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "unlicense", "isc"}
HUB_LICENSES |= {"gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "unknown"}
HUB_LICENSES |= {f"cc-by{limits}-4.0" for limits in ("", "-sa", "-nd", "-nc", "-nc-sa", "-nc-nd")}
UNKNOWN = "unknown"
# names in weights/index.json: task, data set (type, name) and what the number is
SCORES = {
    "fer2013": ("image-classification", "fer2013", "FER-2013", "linear probe, 7 expressions, public test"),
    "lfw": ("image-feature-extraction", "lfw", "LFW", "centred cosine, tight grey crops, ten folds"),
}


@dataclass(frozen=True)
class Facts:
    """What a card can say beyond the files: from weights/index.json, or from options."""

    training_data: str | None = None
    command: str | None = None
    datasets: tuple[str, ...] = ()  # names on the Hub
    metrics: dict[str, float] = field(default_factory=dict)  # in percent, named as in weights/index.json


def card_of(folder: Path, name: str, facts: Facts | None = None, license: str | None = None) -> str:
    """The card of the weights in `folder`, for those who load them as `name`; checked by reading it back."""
    facts, config = facts or Facts(), read_config(folder)
    cfg, own = config.get("pretrained_cfg", {}), config.get("facepcl", {})
    architecture = own.get("architecture", config.get("architecture", ""))
    license = license or cfg.get("license")
    metadata = _metadata(architecture, name, facts, license, bool(cfg.get("paper_ids")))
    text = f"---\n{metadata}\n---\n\n{_text(folder, name, architecture, config, facts, license)}"
    check_card(text, name)
    return text


def check_card(text: str, name: str) -> None:
    """Raise OptionError unless the metadata of a card can be read and says what the Hub asks for."""
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(text).data.to_dict()
    except Exception as error:  # its own and its YAML reader's
        raise OptionError(f"the metadata of {name}'s {CARD_FILE} cannot be read: {_line(error)}") from error
    for key, wanted in (("library_name", "timm"), ("license", None), ("pipeline_tag", None)):
        if not data.get(key) or (wanted and data[key] != wanted):
            raise OptionError(
                f"the metadata of {name}'s {CARD_FILE} need {key}{f': {wanted}' if wanted else ''}; "
                f"delete {CARD_FILE} to have it written anew"
            )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _metadata(architecture: str, name: str, facts: Facts, license: str | None, paper: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    known = (license or UNKNOWN).lower() in HUB_LICENSES
    results = [
        EvalResult(
            task_type=task,
            dataset_type=kind,
            dataset_name=title,
            metric_type="accuracy",
            metric_value=facts.metrics[score],
            metric_name=f"accuracy %, {how}",
        )
        for score, (task, kind, title, how) in SCORES.items()
        if score in facts.metrics
    ]
    data = ModelCardData(
        license=(license or UNKNOWN).lower() if known else "other",
        license_name=None if known else license,
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=["timm", "face", *(["pose-disentangled"] if paper else []), architecture],
        datasets=list(facts.datasets) or None,
        metrics=["accuracy"] if results else None,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _text(
    folder: Path, name: str, architecture: str, config: dict[str, Any], facts: Facts, license: str | None
) -> str:
    cfg = config["pretrained_cfg"]
    size = cfg["input_size"][-1]
    if architecture in STOCK_NAMES:
        branches = (folder / BRANCHES_FILE).is_file()
    else:
        branches = config["model_args"].get("branches", True)
    codes = "shared, face and pose code" if branches else "shared code"
    kind = "pose-disentangled contrastive learning" if cfg.get("paper_ids") else "a backbone of others"
    lines = [
        f"# {name.rpartition('/')[2].removeprefix('local-dir:')}",
        "",
        f"A face encoder (`{architecture}`, {codes}): {kind} as a "
        "[timm](https://github.com/huggingface/pytorch-image-models) model, by facepcl.",
        "",
        "## Model details",
        "",
        f"- Input: an upright square around one face, RGB, {size} px, {_values(cfg)}.",
        f"- Licence of the weights: {license or 'none is known; ask whoever made them'}.",
    ]
    if told := facts.training_data or ", ".join(facts.datasets):
        lines.append(f"- Training data: {told}.")
    elif cfg.get("description"):
        lines.append(f"- Origin: {cfg['description']}.")
    if facts.command:
        lines.append(f"- Trained by `{facts.command}`.")
    if cfg.get("paper_ids"):
        lines.append(f"- Paper of the method: {PAPER}")
    lines += [*_other_files(folder), "", "## Model usage", ""]
    lines += _usage(
        name, architecture, f"torch.rand(1, 3, {size}, {size}))  # {_values(cfg)}", bool(branches)
    )
    if facts.metrics:
        lines += ["", "## Scores", "", *_scores(facts.metrics)]
    lines += ["", "## What it must not be used for", ""]
    lines += ["Identifying people, deciding about them, or watching them without their consent."]
    return "\n".join(lines) + "\n"


def _values(cfg: dict[str, Any]) -> str:
    """What an image's numbers must be."""
    mean, std = (", ".join(f"{value:g}" for value in cfg[key]) for key in ("mean", "std"))
    if set(cfg["mean"]) == {0} and set(cfg["std"]) == {1}:
        return "values in [0, 1] as they are"
    return f"values in [0, 1] less a mean of ({mean}), over a standard deviation of ({std})"


def _other_files(folder: Path) -> list[str]:
    told = {
        BRANCHES_FILE: "the face and the pose branch; facepcl reads them beside the trunk",
        DECODER_FILE: 'draws a face from two codes: `facepcl.create_decoder("NAME")`',
        HEADS_FILE: 'reads identity, pose, expression, action units: `facepcl.create_heads("NAME")`',
        ORIGINAL_HEADS_FILE: "projection heads or linear probe of the original training, for reference",
    }
    return [f"- `{name}`: {words}" for name, words in told.items() if (folder / name).is_file()]


def _usage(name: str, architecture: str, image: str, branches: bool) -> list[str]:
    stock = architecture in STOCK_NAMES
    plain = ["The trunk, with timm alone:", ""]
    if not stock:
        plain = [f"timm knows `{architecture}` after `import facepcl` (`pip install facepcl`):", ""]
    imported = "timm, torch" if stock else "timm, torch, facepcl"
    lines = [*plain, "```python", f"import {imported}", ""]
    lines += [f'model = timm.create_model("{name}", pretrained=True, num_classes=0).eval()']
    lines += [f"features = model({image}", "```", ""]
    if branches:
        lines += ["With facepcl, all codes of a face:", "", "```python", "import facepcl, torch", ""]
        lines += [f'model = facepcl.create_model("{name}").eval()']
        lines += [f"shared, face, pose = model.forward_codes({image}", "```", ""]
    lines += [
        "A folder of faces:",
        "",
        f"    facepcl embed photos/ -o embeddings.parquet --model {shlex.quote(name)}",
    ]
    return lines


def _scores(metrics: dict[str, float]) -> list[str]:
    lines = ["| data | what | % |", "|---|---|---|"]
    for score, value in metrics.items():
        *_, title, how = SCORES.get(score, ("", "", score, ""))
        lines.append(f"| {title} | {how} | {value} |")
    return lines
