"""Online linear probes: what each code holds while a run goes on, read from labelled faces."""

from collections.abc import Iterator

import torch

from facepcl.errors import DataError
from facepcl.pretrain.augment import resize, to_float
from facepcl.pretrain.dataset import read_faces
from facepcl.pretrain.diagnostics import branch_codes
from facepcl.pretrain.label_views import turned_pose, upright_crops
from facepcl.pretrain.networks import network_input
from facepcl.pretrain.rng import permutation

MOST_FACES = 1000  # a second or two of one core
EACH = 5  # images of a person, as long as there are other people
FEWEST = 20  # of each half
STRENGTH = 1e-2  # of the L2 term beside the sum of squares, for standardised codes divided by sqrt(D)
BATCH = 64


class OnlineProbe:
    """Ridge regressions from the codes of labelled faces, half of whose people are for the fit.

    Args:
        sources: Folders and `.tar` shards of faces with labels, as for `--method labels`.
        source_size: Side in pixels to which images are resized when read.
        cls: The label in NAME.cls.

    Raises:
        DataError: There are too few faces with labels.
    """

    def __init__(self, sources: tuple[str, ...], source_size: int, cls: str):
        faces = read_faces(sources, source_size, labels=True, cls=cls)
        rows, self._fits = _choose(faces.identity)  # copies, so that the other faces are freed
        views = upright_crops(faces.images[rows], faces.landmarks[rows])
        self._images, self._pose = views.images, turned_pose(faces.pose[rows], views.turned)
        self._expression, self._classes = faces.expression[rows], len(faces.expression_names)
        self._people = faces.identity[rows]
        if min(int(self._fits.sum()), int((~self._fits).sum())) < FEWEST:
            raise DataError(
                f"--probe-data has {len(faces)} faces; each half of its people needs at least {FEWEST}"
            )
        if not dict(self._scores(torch.arange(2.0 * len(rows)).view(-1, 2))):
            raise DataError(
                "--probe-data has too few head poses, expressions and people with two faces: its images need "
                "labels, such as NAME.json beside NAME.jpg"
            )

    def __call__(self, encoder: torch.nn.Module, size: int) -> dict[str, float]:
        """Scores on the other half, `probe_LABEL_CODE`: mean absolute errors in degrees of yaw, its absolute
        value and pitch; accuracy of the expression; area under the ROC curve of cosines for identity."""
        scores: dict[str, float] = {}
        for name, code in self._codes(encoder, size).items():
            scores |= {f"probe_{label}_{name}": score for label, score in self._scores(code)}
        return scores

    @torch.no_grad()
    def _codes(self, encoder: torch.nn.Module, size: int) -> dict[str, torch.Tensor]:
        device, training = next(encoder.parameters()).device, encoder.training
        encoder.eval()
        try:
            batches = [
                branch_codes(encoder, encoder.forward_features(network_input(encoder, images.to(device))))  # type: ignore[operator]
                for images in to_float(resize(self._images, size)).split(BATCH)
            ]
        finally:
            encoder.train(training)
        return {name: torch.cat([batch[name].float().cpu() for batch in batches]) for name in batches[0]}

    def _scores(self, code: torch.Tensor) -> Iterator[tuple[str, float]]:
        yaw, pitch = self._pose[:, 0], self._pose[:, 1]
        for label, values in (("yaw", yaw), ("abs_yaw", yaw.abs()), ("pitch", pitch)):
            if found := self._ridge(code, values[:, None], ~values.isnan()):
                predicted, known = found
                yield label, float((predicted[:, 0] - values[known]).abs().mean())
        if self._classes > 1:
            targets = torch.nn.functional.one_hot(self._expression.clamp_min(0), self._classes).float()
            if found := self._ridge(code, targets, self._expression >= 0):
                predicted, known = found
                yield "expression", float((predicted.argmax(1) == self._expression[known]).float().mean())
        known = (self._people >= 0) & ~self._fits
        if 1 < self._people[known].unique().numel() < int(known.sum()):
            yield "identity", _auc(code[known], self._people[known])

    def _ridge(
        self, code: torch.Tensor, targets: torch.Tensor, known: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Predictions `[T, K]` for the half that is not for the fit, and which rows those are."""
        fit, test = known & self._fits, known & ~self._fits
        if min(int(fit.sum()), int(test.sum())) < FEWEST:
            return None
        mean, std = code[fit].mean(0), code[fit].std(0).clamp_min(1e-6)
        x, y = ((code[rows] - mean) / std / code.shape[1] ** 0.5 for rows in (fit, test))
        centre = targets[fit].mean(0)
        gram = x @ x.T + STRENGTH * torch.eye(len(x))  # in its dual form: codes have more numbers than faces
        return y @ x.T @ torch.linalg.solve(gram, targets[fit] - centre) + centre, test


def _choose(identity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """At most MOST_FACES rows, in random order, of as many people as five images of each allow, and for which
    of them the regressions are fitted: the rows of half of the people. Who is unknown (-1) is alone."""
    people: dict[int, list[int]] = {}
    named = identity.tolist()
    for row in permutation(len(named), len(named)).tolist():
        people.setdefault(named[row] if named[row] >= 0 else -1 - row, []).append(row)
    starts = range(0, max(map(len, people.values())), EACH)
    chosen = [
        (row, number % 2 == 0)
        for start in starts
        for number, rows in enumerate(people.values())
        for row in rows[start : start + EACH]
    ]
    rows, fits = zip(*chosen[:MOST_FACES], strict=True)
    return torch.tensor(rows), torch.tensor(fits)


def _auc(code: torch.Tensor, people: torch.Tensor) -> float:
    """The chance that two images of one person have a higher cosine than two of different people."""
    unit = torch.nn.functional.normalize(code - code.mean(0))
    first, second = torch.triu_indices(len(unit), len(unit), 1)
    cosine, same = (unit @ unit.T)[first, second], people[first] == people[second]
    ordered = cosine[~same].sort().values
    found = cosine[same].contiguous()
    ranks = (torch.searchsorted(ordered, found, right=right).float().mean() for right in (False, True))
    return float(sum(ranks) / 2 / len(ordered))  # a tie counts for half
