"""The model card of a folder of weights: metadata that the Hub reads, and calls that load them."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facepcl.errors import OptionError
from facepcl.models.branches import is_branch
from facepcl.models.factory import is_timms
from facepcl.models.io import (
    BRANCHES_FILE,
    DECODER_FILE,
    HEADS_FILE,
    ORIGINAL_HEADS_FILE,
    STOCK_NAMES,
    WEIGHTS_FILE,
    cfg_of,
    read_config,
    read_shapes,
)

CARD_FILE = "README.md"
PAPER = "https://arxiv.org/abs/2211.13490"
# common identifiers of the Hub; another licence becomes `other`, with its name in `license_name`
HUB_LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "unlicense", "isc"}
HUB_LICENSES |= {"gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "unknown"}
HUB_LICENSES |= {f"cc-by{limits}-4.0" for limits in ("", "-sa", "-nd", "-nc", "-nc-sa", "-nc-nd")}
UNKNOWN = "unknown"
# by their names in weights/index.json: task, data set (type, name) and protocol
SCORES = {
    "fer2013": ("image-classification", "fer2013", "FER-2013", "linear probe, 7 expressions, public test"),
    "lfw": ("image-feature-extraction", "lfw", "LFW", "centred cosine, tight grey crops, ten folds"),
    "lfw_identity": ("image-feature-extraction", "lfw", "LFW", "cosine of the identity head, ten folds"),
}
OTHER_FILES = {
    BRANCHES_FILE: "the face and the pose branch; facepcl reads them beside the trunk",
    DECODER_FILE: 'draws a face from two codes: `facepcl.create_decoder("NAME")`',
    HEADS_FILE: 'reads identity, pose, expression, action units: `facepcl.create_heads("NAME")`',
    ORIGINAL_HEADS_FILE: "projection heads or linear probe of the original training, for reference",
}


@dataclass(frozen=True)
class Facts:
    """What a card says beyond the files: from weights/index.json, or from options."""

    training_data: str | None = None
    command: str | None = None
    datasets: tuple[str, ...] = ()  # names on the Hub
    metrics: dict[str, float] = field(default_factory=dict)  # in percent, named as in weights/index.json


def card_of(folder: Path, name: str, facts: Facts | None = None, license: str | None = None) -> str:
    """The card of the weights in `folder`, loaded as `name`; its metadata are checked."""
    facts, config = facts or Facts(), read_config(folder)
    cfg, own = cfg_of(config), config.get("facepcl", {})
    if not {"input_size", "mean", "std"} <= cfg.keys():
        raise OptionError(
            f"{folder}: the pretrained_cfg of its config.json needs input_size, mean and std; save the model "
            "again by facepcl or by timm's save_for_hf"
        )
    architecture = own.get("architecture", config.get("architecture", ""))
    license = license or cfg.get("license")
    metadata = _metadata(architecture, name, facts, license, bool(cfg.get("paper_ids")))
    text = f"---\n{metadata}\n---\n\n{_body(folder, name, architecture, cfg, facts, license)}"
    check_card(text, name)
    return text


def check_card(text: str, name: str) -> None:
    """Raise OptionError unless the metadata of a card can be read and have what the Hub requires."""
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(text).data.to_dict()
    except Exception as error:  # its own and its YAML reader's
        reason = " ".join(str(error).split())
        raise OptionError(f"the metadata of {name}'s {CARD_FILE} cannot be read: {reason}") from error
    for key, wanted in (("library_name", "timm"), ("license", None), ("pipeline_tag", None)):
        if not data.get(key) or (wanted and data[key] != wanted):
            raise OptionError(
                f"the metadata of {name}'s {CARD_FILE} need {key}{f': {wanted}' if wanted else ''}; "
                f"delete {CARD_FILE} to have it written again"
            )


def _metadata(architecture: str, name: str, facts: Facts, license: str | None, is_pcl: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    identifier = (license or UNKNOWN).lower()
    known = identifier in HUB_LICENSES
    results = [
        EvalResult(
            task_type=task,
            dataset_type=kind,
            dataset_name=title,
            metric_type="accuracy",
            metric_value=facts.metrics[score],
            metric_name=f"accuracy %, {protocol}",
        )
        for score, (task, kind, title, protocol) in SCORES.items()
        if score in facts.metrics
    ]
    data = ModelCardData(
        license=identifier if known else "other",
        license_name=None if known else license,
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=["timm", "face", *(["pose-disentangled"] if is_pcl else []), architecture],
        datasets=list(facts.datasets) or None,
        metrics=["accuracy"] if results else None,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _body(
    folder: Path, name: str, architecture: str, cfg: dict[str, Any], facts: Facts, license: str | None
) -> str:
    size, values = cfg["input_size"][-1], _values(cfg)
    stock = architecture in STOCK_NAMES or is_timms(architecture)
    branches = (folder / BRANCHES_FILE).is_file() or any(map(is_branch, read_shapes(folder / WEIGHTS_FILE)))
    codes = "shared, face and pose code" if branches else "shared code"
    if cfg.get("paper_ids"):
        kind = "pose-disentangled contrastive learning"
    else:
        kind = "a backbone" if is_timms(architecture) else "a third-party backbone"
    details = [
        f"Input: an upright square around one face, RGB, {size} px, {values}.",
        f"Licence of the weights: {license or 'unknown; ask their author'}.",
    ]
    if data := facts.training_data or ", ".join(facts.datasets):
        details.append(f"Training data: {data}.")
    elif cfg.get("description"):
        details.append(f"Origin: {cfg['description']}.")
    if facts.command:
        details.append(f"Trained by `{facts.command}`.")
    if cfg.get("paper_ids"):
        details.append(f"Paper of the method: {PAPER}")
    details += [f"`{file}`: {text}" for file, text in OTHER_FILES.items() if (folder / file).is_file()]

    call = f"torch.rand(1, 3, {size}, {size}))  # {values}"
    alone = f"timm knows `{architecture}` after `import facepcl`:"
    usage = f"""{"The backbone, with timm only:" if stock else alone}

```python
import timm, torch{"" if stock else ", facepcl"}

model = timm.create_model("{name}", pretrained=True, num_classes=0).eval()
features = model({call}
```
"""
    if branches:
        usage += f"""
With facepcl, all codes of a face:

```python
import facepcl, torch

model = facepcl.create_model("{name}", pretrained=True).eval()
shared, face, pose = model.forward_codes({call}
```
"""
    scores = ""
    if facts.metrics:
        scores = "\n## Scores\n\n| data | what | % |\n|---|---|---|\n"
        for score, value in facts.metrics.items():
            *_, title, protocol = SCORES.get(score, ("", "", score, ""))
            scores += f"| {title} | {protocol} | {value} |\n"
    return f"""# {name.rpartition("/")[2].removeprefix("local-dir:")}

A face encoder (`{architecture}`, {codes}): {kind} as a \
[timm](https://github.com/huggingface/pytorch-image-models) model, by facepcl.

## Model details

{"".join(f"- {detail}{chr(10)}" for detail in details)}
## Model usage

{usage}
A folder of face crops; for photos, add `--align`:

    facepcl embed crops/ -o embeddings.parquet --model {shlex.quote(name)}
{scores}
## Out-of-scope use

Identifying people, deciding about them, or watching them without their consent.
"""


def _values(cfg: dict[str, Any]) -> str:
    """How pixel values must be normalised."""
    if set(cfg["mean"]) == {0} and set(cfg["std"]) == {1}:
        return "values in [0, 1], not normalised"
    mean, std = (", ".join(f"{value:g}" for value in cfg[key]) for key in ("mean", "std"))
    return f"values in [0, 1] minus a mean of ({mean}), divided by a standard deviation of ({std})"
