"""For model_card.py: what the heads of weights say of faces, without any training on them.

Head pose: YouTube Faces, angles fitted from landmarks, and rendered test people. Expression: the public test
of FER-2013 and rendered test people; the temperature of calibrated probabilities is chosen on a fifth of
FER-2013's training faces. Action units: correlation over rendered test people, mean of the units.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from model_card_pairs import markdown

from facepcl.analysis.analyzer import AttributeEmbedder, in_photo
from facepcl.data.sources import Item
from facepcl.embedding.embeddings import EXPRESSION
from facepcl.images.face import ANGLES, Face, face_columns
from facepcl.models.io import HEADS_FILE
from facepcl.models.registry import read_index
from facepcl.probes.datasets import read_manifest
from facepcl.probes.features import aligned
from facepcl.probes.manifest import TEST, TRAIN, Labelled, Manifest
from facepcl.utils.files import sha256_file, write_text

BINS = 15  # of the expected calibration error (Guo et al. 2017)
OTHER_NAMES = {"angry": "anger"}  # FER-2013's
CALIBRATION_SHARE = 5  # one training face in so many
SCORES = Path(__file__).resolve().parent / "model_card_heads.jsonl"


class Answers(NamedTuple):
    """What the heads say of images: attributes `[N]` by name."""

    images: list[Labelled]
    attributes: dict[str, np.ndarray]

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Attributes `[N, len(names)]`."""
        return np.stack([self.attributes[name] for name in names], 1)


def ask(
    embedder: AttributeEmbedder,
    manifest: Manifest,
    align: bool,
    chosen: Callable[[Labelled], bool] = lambda image: True,
) -> Answers:
    """The heads' answers about the `chosen` images of a data set; of photos that are aligned by their
    landmarks, the pose in the photo."""
    images = aligned(manifest, turn=True) if align else manifest.images

    def items() -> Iterator[Item]:
        for item, image in zip(manifest.items(), images, strict=True):
            if chosen(image):
                yield item._replace(square=image.square)

    rows = [batch.rows for batch in embedder.batches(items())]
    images = [image for image in images if chosen(image)]
    values = np.concatenate([block.attributes for block in rows])
    attributes = dict(zip(embedder.meta["attributes"], values.T, strict=True))
    if align:
        faces = face_columns(
            [Face((np.nan,) * 4, image.landmarks, np.nan) for image in images], [0] * len(images)
        )
        pose = in_photo(np.stack([attributes[angle] for angle in ANGLES], 1), faces)
        attributes |= dict(zip(ANGLES, pose.T, strict=True))
    return Answers(images, attributes)


def pose_errors(answers: Answers) -> np.ndarray:
    """Mean absolute errors of yaw, pitch and roll in degrees."""
    truth = np.array([image.pose for image in answers.images])
    return np.abs(answers.columns(ANGLES) - truth).mean(0)


def expression_scores(answers: Answers, temperature: float = 1.0) -> tuple[float, float]:
    """Accuracy, and expected calibration error of the probabilities at a temperature."""
    classes, truth, known = _expressions(answers)
    probabilities = _at(answers.columns([EXPRESSION + name for name in classes])[known], temperature)
    right, confidence = probabilities.argmax(1) == truth, probabilities.max(1)
    return float(right.mean()), calibration_error(confidence, right)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over bins of equal width, weighted by their images."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = np.array([np.bincount(place, weights, BINS) for weights in (confidence, right)])
    return float(np.abs(sums[0] - sums[1]).sum() / len(right))


def best_temperature(answers: Answers) -> float:
    """The temperature with the least cross-entropy on faces."""
    classes, truth, known = _expressions(answers)
    given = answers.columns([EXPRESSION + name for name in classes])[known]

    def loss(temperature: float) -> float:
        return float(-np.log(_at(given, temperature)[np.arange(len(truth)), truth] + 1e-12).mean())

    return float(min(np.geomspace(0.25, 8, 81), key=loss))


def confusion(answers: Answers) -> tuple[list[str], np.ndarray]:
    """Classes, and the share of each class (row) that is taken for each (column), per cent."""
    classes, truth, known = _expressions(answers)
    found = answers.columns([EXPRESSION + name for name in classes])[known].argmax(1)
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (truth, found), 1)
    return classes, 100 * counts / counts.sum(1, keepdims=True)


def _expressions(answers: Answers) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The classes, the class of each image that has one, and which those are."""
    classes = [name.removeprefix(EXPRESSION) for name in answers.attributes if name.startswith(EXPRESSION)]
    named = [OTHER_NAMES.get(str(image.expression), image.expression) for image in answers.images]
    known = np.array([name in classes for name in named])
    return classes, np.array([classes.index(name) for name in named if name in classes]), known


def _at(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.maximum(probabilities.astype(np.float64), 1e-12) ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)


def unit_correlation(answers: Answers) -> tuple[float, dict[str, float]]:
    """Pearson's r of each action unit that occurs, and their mean."""
    names = [name for name in answers.attributes if name.startswith("AU")]
    truth = np.array([[(image.units or {}).get(name, 0.0) for name in names] for image in answers.images])
    found = answers.columns(names)
    each = {
        n: float(np.corrcoef(found[:, i], truth[:, i])[0, 1])
        for i, n in enumerate(names)
        if truth[:, i].std()
    }
    return float(np.mean(list(each.values()))), each


def calibrates(image: Labelled) -> bool:
    """Whether an image is in the fixed fifth of FER-2013's training faces that chooses the temperature."""
    digest = hashlib.sha256(Path(image.name).name.encode()).hexdigest()
    return image.split == TRAIN and int(digest, 16) % CALIBRATION_SHARE == 0


def heads_of(name: str, data: Path, work: Path) -> dict[str, Any]:
    """The scores of the heads of weights."""
    embedder = AttributeEmbedder(name, dtype="float32")
    youtube = ask(embedder, read_manifest("head-pose", data / "real/ytf-pose.tar", "auto", 0), True)
    fer = read_manifest("expression", work / "fer2013", "auto", 0)
    rendered = ask(embedder, read_manifest("head-pose", data / "synthface-96-test.tar", "auto", 0), True)
    temperature = best_temperature(ask(embedder, fer, False, calibrates))
    photos = ask(embedder, fer, False, lambda image: image.split == TEST)
    classes, confused = confusion(photos)
    mean_r, by_unit = unit_correlation(rendered)
    return {
        "pose_ytf": pose_errors(youtube).tolist(),
        "pose_rendered": pose_errors(rendered).tolist(),
        "fer": expression_scores(photos),
        "fer_calibrated": expression_scores(photos, temperature),
        "temperature": temperature,
        "rendered_expression": expression_scores(rendered),
        "classes": classes,
        "confusion": confused.tolist(),
        "units": mean_r,
        "by_unit": by_unit,
    }


def heads_scores(data: Path, work: Path) -> list[dict[str, Any]]:
    """The scores of the heads of all bundled weights; those that are not known are computed, and kept."""
    lines = SCORES.read_text("utf-8").splitlines() if SCORES.is_file() else []
    known = {(s["title"], s["sha256"]): s for s in map(json.loads, lines)}
    scores = []
    for row in read_index():
        if row.path and row.heads:
            title, digest = f"{row.model}.{row.tag}", sha256_file(row.path.with_suffix(f".{HEADS_FILE}"))
            key = title, f"{row.sha256[:12]} {digest[:12]}"
            scores.append(known.get(key) or {"title": title, "sha256": key[1], **heads_of(title, data, work)})
    write_text(SCORES, "".join(json.dumps(score) + "\n" for score in scores))
    return scores


def heads_table(scores: Sequence[dict[str, Any]]) -> str:
    """What the heads say of photographs and of rendered faces."""
    head = [
        "weights",
        "YouTube Faces: yaw, pitch, roll °",
        "mean °",
        "FER-2013 %",
        "ECE %",
        "calibrated: ECE %",
    ]
    head += ["rendered: pose °", "expression %", "ECE %", "action units, r"]
    rows = []
    for s in scores:
        youtube, rendered = s["pose_ytf"], s["pose_rendered"]
        (fer, error), (_, calibrated) = s["fer"], s["fer_calibrated"]
        known, rendered_error = s["rendered_expression"]
        cells = [", ".join(f"{value:.1f}" for value in youtube), f"{np.mean(youtube):.1f}"]
        cells += [f"{100 * value:.1f}" for value in (fer, error, calibrated)]
        cells += [
            f"{np.mean(rendered):.1f}",
            f"{100 * known:.1f}",
            f"{100 * rendered_error:.1f}",
            f"{s['units']:.2f}",
        ]
        rows.append([s["title"], *cells])
    return markdown(head, rows)


def confusion_table(scores: Sequence[dict[str, Any]]) -> str:
    """What the default model's head takes the expressions of FER-2013 for."""
    first = scores[0]
    rows = [
        [name, *(f"{v:.0f}" for v in row)]
        for name, row in zip(first["classes"], first["confusion"], strict=True)
    ]
    return markdown([f"{first['title']}, %", *first["classes"]], rows)
