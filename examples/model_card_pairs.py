"""For model_card.py: how well codes tell people apart on LFW, and how the cosines of identity are spread.

A threshold is chosen on the pairs of folds 0 to 4, by which recipes were chosen, too; folds 5 to 9 report
what it reaches. True accept rates: the share of their pairs of one person that a threshold accepts which
accepts so many of all pairs of different people there.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facepcl.embedding.embedder import FaceEmbedder
from facepcl.embedding.encoder import IDENTITY
from facepcl.models.io import HEADS_FILE
from facepcl.models.registry import read_index
from facepcl.probes.baselines import load_encoder
from facepcl.probes.datasets import read_manifest
from facepcl.probes.manifest import Manifest
from facepcl.probes.metrics import auc
from facepcl.probes.verification import best_threshold
from facepcl.utils.files import sha256_file, write_text

FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-5)
SHOWN_RATES = FALSE_ACCEPT_RATES[1:3]  # among the scores of a code
PERCENTILES = (1, 50, 99)
REPORT_FOLDS = range(5, 10)
CODES = ((IDENTITY, False), (IDENTITY, True), ("shared", False))  # and whether with flip
SCORES = Path(__file__).resolve().parent / "model_card_pairs.jsonl"


def pairs_scores(work: Path) -> list[dict[str, Any]]:
    """The scores of the codes of all bundled weights and of histograms of gradients; those that are not known
    are computed, and kept."""
    lines = SCORES.read_text("utf-8").splitlines() if SCORES.is_file() else []
    known = {(s["title"], s["code"], s["flip"], s["sha256"]): s for s in map(json.loads, lines)}
    lfw = read_manifest("verification", work / "lfw.csv", "auto", 0)
    scores = []
    for key in _wanted():
        if key not in known:
            known[key] = dict(zip(("title", "code", "flip", "sha256"), key, strict=True))
            known[key] |= _scores(lfw, _embed(lfw, *key[:3]))
            print(f"LFW's pairs: {', '.join(map(str, key[:3]))}", flush=True)
        scores.append(known[key])
    write_text(SCORES, "".join(json.dumps(score) + "\n" for score in scores))
    return scores


def _wanted() -> Iterator[tuple[str, str, bool, str]]:
    """Titles, codes, flips and hashes of weights and heads."""
    for row in read_index():
        if row.path:
            heads = row.path.with_suffix(f".{HEADS_FILE}")
            digest = f"{row.sha256[:12]} {sha256_file(heads)[:12] if row.heads else ''}"
            for code, flip in CODES if row.heads else CODES[2:]:
                yield f"{row.model}.{row.tag}", code, flip, digest
    yield "hog", "shared", False, ""


def _embed(manifest: Manifest, title: str, code: str, flip: bool) -> np.ndarray:
    """Codes of unit length, `[N, D]`."""
    backend = "eager" if title == "hog" else "auto"
    embedder = FaceEmbedder(
        load_encoder(title, 0), code, flip=flip, normalize=True, dtype="float32", backend=backend
    )
    return np.concatenate([batch.rows.vectors for batch in embedder.batches(manifest.items())])


def _scores(manifest: Manifest, codes: np.ndarray) -> dict[str, Any]:
    ends = np.array([(pair.a, pair.b) for pair in manifest.pairs])
    same = np.array([pair.same for pair in manifest.pairs])
    reports = np.isin([pair.fold for pair in manifest.pairs], REPORT_FOLDS)
    cosine = (codes[ends[:, 0]] * codes[ends[:, 1]]).sum(1)
    threshold = best_threshold(cosine[~reports], same[~reports])
    people = np.array([image.subject for image in manifest.images])
    rows = np.unique(ends[reports])
    everyone = codes[rows] @ codes[rows].T
    upper = np.triu_indices(len(rows), 1)
    different = everyone[upper][(people[rows][:, None] != people[rows][None])[upper]]
    matching = cosine[reports & same]
    thresholds = {}
    for rate in FALSE_ACCEPT_RATES:
        least = float(np.quantile(different, 1 - rate))
        thresholds[f"{rate:g}"] = [round(least, 3), round(float((matching >= least).mean()), 3)]
    return {
        "auc": [auc(cosine[part], same[part]) for part in (~reports, reports)],
        "accuracy": float(((cosine >= threshold) == same)[reports].mean()),
        "same": [round(float(value), 3) for value in np.percentile(matching, PERCENTILES)],
        "different": [round(float(value), 3) for value in np.percentile(different, PERCENTILES)],
        "thresholds": thresholds,
    }


def pairs_table(scores: Sequence[dict[str, Any]]) -> str:
    """How well each code tells people apart."""
    head = ["features", "code", "AUC, folds 0-4 %", "AUC, folds 5-9 %", "accuracy, folds 5-9 %"]
    head += [f"accepted %, FAR {rate:g}" for rate in SHOWN_RATES]
    rows = []
    for s in scores:
        numbers = [*s["auc"], s["accuracy"], *(s["thresholds"][f"{rate:g}"][1] for rate in SHOWN_RATES)]
        code = s["code"] + (", flip" if s["flip"] else "")
        rows.append([s["title"], code, *(f"{100 * value:.1f}" for value in numbers)])
    return markdown(head, rows)


def cosines_of(scores: Sequence[dict[str, Any]], title: str) -> dict[str, Any]:
    """How the cosines of the identity embeddings of weights are distributed, for the index."""
    plain, flip = (
        next((s for s in scores if (s["title"], s["code"], s["flip"]) == (title, IDENTITY, flip)), None)
        for flip in (False, True)
    )
    if not plain or not flip:
        return {}
    kept = {key: plain[key] for key in ("same", "different", "thresholds")}
    return {**kept, "thresholds_flip": flip["thresholds"]}


def cosines_table() -> str:
    """How cosines of identity are distributed by the index, and thresholds."""
    head = ["weights", "same person: 1 %, median, 99 %", "different: 1 %, median, 99 %"]
    head += [f"threshold (accepted) at FAR {rate:g}" for rate in FALSE_ACCEPT_RATES]
    rows = []
    for row in read_index():
        if cosines := row.cosines:
            spread = [", ".join(f"{value:.2f}" for value in cosines[kind]) for kind in ("same", "different")]
            chosen = [cosines["thresholds"][f"{rate:g}"] for rate in FALSE_ACCEPT_RATES]
            cells = [*spread, *(f"{at:.2f} ({100 * share:.0f} %)" for at, share in chosen)]
            rows.append([f"{row.model}.{row.tag}", *cells])
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))
