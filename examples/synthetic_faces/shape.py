"""The shape of a head: age, gender and mixture of MakeHuman's targets, and many local blendshapes."""

from dataclasses import dataclass

import numpy as np

from synthetic_faces.head import LEFT_EYE, LOWER_TEETH, POSITIVE_ENDS, RIGHT_EYE, UPPER_TEETH, Head
from synthetic_faces.kernels.geometry import smooth

MIXED = ("african", "asian", "caucasian")  # names of MakeHuman's targets, no claim about people
_SPREAD = {"eye": 0.30, "nos": 0.33, "mou": 0.26, "hea": 0.30, "ear": 0.35}  # of the local shapes
_MARKED = 0.06  # share of the local shapes that are marked in a person
_USUAL = {  # of all and more of men: MakeHuman's eyes are too near each other and too far above the mouth
    "eye-trans": (-0.25, -0.7),
    "mouth-scale-horiz": (0.6, 0.1),
    "nose-scale-vert": (0.0, -0.5),
}
_OLD = {  # local scales that age moves
    "ear-scale": 0.3,
    "ear-lobe": 0.5,
    "nose-scale-vert": 0.2,
    "nose-point": -0.25,
    "nose-volume": 0.12,
    "eye-bag": 0.55,
    "eye-height2": -0.25,
    "cheek-trans": -0.3,
    "cheek-volume": -0.25,
    "mouth-upperlip-height": -0.4,
    "mouth-lowerlip-height": -0.3,
    "mouth-angles": -0.3,
    "neck-double": 0.4,
}
_YOUNG = {"cheek-volume": 0.35, "chin-prominent": -0.2, "head-round": 0.15, "mouth-scale-vert": 0.1}
_HEAVY = {"head-fat": 0.3, "neck-double": 0.35, "cheek-volume": 0.2}


@dataclass
class Shape:
    """`points` `[V, 3]` of the resting head and what made it; `male` and `age` 0..1; `mix` `[3]`."""

    male: float
    age: float
    mix: np.ndarray
    points: np.ndarray
    eye_centres: np.ndarray
    eye_depth: float  # from an eye's centre to the pupil
    reach: float  # of the expressions, smaller in a baby's face
    flat_ears: np.ndarray  # `[V, 3]` what lays the ears flat under hair and cloth

    @property
    def half_eye_distance(self) -> float:
        return abs(self.eye_centres[0, 0] - self.eye_centres[1, 0]) / 2


def draw_shape(head: Head, rng: np.random.Generator) -> Shape:
    """A person's resting head."""
    male = float(np.clip(rng.beta(0.5, 0.5), 0, 1))
    ages = (rng.uniform(0, 0.12), rng.uniform(0.12, 0.4), rng.normal(0.53, 0.09), rng.normal(0.76, 0.1))
    group = rng.choice(4, p=[0.07, 0.14, 0.58, 0.21])
    age = float(np.clip(ages[group], 0 if group < 2 else 0.4, 1))
    mix = rng.dirichlet([0.45, 0.45, 0.45])
    weight = float(np.clip(rng.normal(0.1, 0.6), -1, 1))
    muscle = float(np.clip(rng.normal(0.3 * male - 0.1, 0.5), -1, 1))
    points = head.vertices.copy()
    _add_macros(head, points, male, age, mix, weight, muscle)
    distinct = rng.uniform(
        0.5, 0.95
    )  # how far from the average: all shapes at their full spread look grotesque
    distinct *= 0.5 + 0.5 * min(1.0, age / 0.4)  # children have few marked features
    for base, ends in head.local_shapes.items():
        amount = _local_amount(rng, base, set(ends), age, distinct) + _drift(base, male, age, weight)
        skew = rng.normal(0, 0.06)
        if amount:
            _add_local(head, points, ends, amount, skew)
    baby = max(0.0, 1 - age / 0.1875)
    growth = _grow(head, points, max(0.0, 1 - age / 0.35))
    eyes = [points[head.part == part] for part in (LEFT_EYE, RIGHT_EYE)]
    centres = np.array([(eye.max(0) + eye.min(0)) / 2 for eye in eyes])
    flat = smooth(points.copy(), head.first_neighbour, head.neighbours, 80, head.ear_zone) - points
    return Shape(male, age, mix, points, centres, 0.13 * growth, 1 - 0.25 * baby, flat)


def _grow(head: Head, points: np.ndarray, young: float) -> float:
    """Enlarge the head of a child about its eyes, in place, to nearly an adult's width, so that hair, cloth
    and lenses made for adults fit; -> the factor. A picture does not tell the size."""
    skull = head.skin & (head.vertices[:, 1] > 7.5)
    growth = float(np.clip(1.3 / np.ptp(points[skull, 0]), 1, 1.4))
    eyes = (head.part == LEFT_EYE) | (head.part == RIGHT_EYE)
    middle = points[eyes].mean(0)
    points += (growth - 1) * (points - middle)
    for part in (UPPER_TEETH, LOWER_TEETH):  # the blendshapes leave a child's teeth too far in front
        points[head.part == part, 2] -= 0.08 * young
    return growth


def _add_macros(
    head: Head,
    points: np.ndarray,
    male: float,
    age: float,
    mix: np.ndarray,
    weight: float,
    muscle: float,
) -> None:
    ages = {
        "baby": max(0, 1 - age / 0.1875),
        "child": min(age / 0.1875, max(0, (0.5 - age) / 0.3125)),
        "young": max(0, 1 - abs(age - 0.5) / (0.3125 if age < 0.5 else 0.5)),
        "old": max(0, (age - 0.5) / 0.5),
    }
    for stage, share in ages.items():
        for gender, of_gender in (("female", 1 - male), ("male", male)):
            for name, of_mix in zip(MIXED, mix, strict=True):
                head.push(points, f"macro/{name}-{gender}-{stage}", share * of_gender * of_mix)
            end = "max" if weight > 0 else "min"
            name = f"macro/universal-{gender}-{stage}-averagemuscle-{end}weight"
            head.push(points, name, share * of_gender * abs(weight))
            end = "max" if muscle > 0 else "min"
            name = f"macro/universal-{gender}-{stage}-{end}muscle-averageweight"
            head.push(points, name, share * of_gender * abs(muscle))


def _drift(base: str, male: float, age: float, weight: float) -> float:
    """What sex, age and weight add to a local scale."""
    old, young = max(0.0, (age - 0.55) / 0.45), max(0.0, 1 - age / 0.3)
    drift = old * _OLD.get(base, 0.0) + young * _YOUNG.get(base, 0.0)
    usual, of_male = _USUAL.get(base, (0.0, 0.0))
    drift += (usual + male * of_male) * min(1.0, age / 0.4)
    return drift + max(weight, -0.6) * _HEAVY.get(base, 0.0)


def _local_amount(rng: np.random.Generator, base: str, ends: set[str], age: float, distinct: float) -> float:
    """How far a local scale is moved; > 0 towards its positive end."""
    if rng.random() < _MARKED:
        distinct = 1.2
    if base.startswith("head-age"):
        amount = float(np.clip((age - 0.5) * 1.2 + rng.normal(0, 0.2), -1, 1))
    elif base.startswith("asym"):
        amount = abs(rng.normal(0, 0.12 * distinct))
    elif ends == {"one"}:
        amount = max(0.0, rng.normal(-0.2, 0.32 * distinct)) if "pointed" not in base else 0.0
    else:
        spread = distinct * _SPREAD.get(base[:3], 0.32)
        if base in ("nose-trans", "mouth-trans", "eye-trans") or "push" in base or "head-scale" in base:
            spread = distinct * 0.2
        amount = float(np.clip(rng.normal(0, spread), -2 * spread, 2 * spread))
    if base == "mouth-angles":
        amount += 0.3  # at rest the mesh looks sullen
    return amount


def _add_local(
    head: Head, points: np.ndarray, ends: dict[str, list[str]], amount: float, skew: float
) -> None:
    """`skew` makes the left side's change larger than the right's."""
    positive = [end for end in sorted(ends) if end in POSITIVE_ENDS]
    negative = [end for end in sorted(ends) if end not in POSITIVE_ENDS]
    for end in positive if amount > 0 or not negative else negative:
        for name in ends[end]:
            side = {"local/l-": 1 + skew, "local/r-": 1 - skew}.get(name[:8], 1)
            head.push(points, name, abs(amount) * side)
