"""Hands and things before the face: lit, and casting shadows on it."""

import numpy as np

from synthetic_faces.colours import cloth_colour
from synthetic_faces.kernels.pixels import PLAIN
from synthetic_faces.model import Model
from synthetic_faces.scene import Scene
from synthetic_faces.solids import capsule, slab
from synthetic_faces.wear import Wear

FINGER = 0.085  # radius, decimetres


class _Hands:
    """Adds parts of a hand; `side` 1 = from the subject's left."""

    def __init__(self, model: Model, rng: np.random.Generator) -> None:
        self.model, self.rng = model, rng
        self.side = float(rng.choice([-1, 1]))
        self.skin = model.add_plain(model.person.complexion.skin * rng.uniform(0.85, 1.05), 0.03)
        self._front = model.points[model.head.skin & (model.head.vertices[:, 2] > 0.2)]

    def on_face(self, x: float, y: float, lift: float) -> np.ndarray:
        """The point `lift` before the skin at x (towards the hand's side) and y."""
        distance = (self._front[:, :2] - [self.side * x, y]) ** 2
        z = self._front[distance.sum(1).argsort()[:4], 2].max()
        return np.array([self.side * x, y, z + lift])

    def at(self, x: float, y: float, z: float) -> np.ndarray:
        return np.array([self.side * x, y, z])

    def limb(self, radii: tuple[float, float], *points: np.ndarray) -> None:
        """Capsules along a line, thinning from the first to the last radius."""
        steps = np.linspace(*radii, len(points))
        for k in range(len(points) - 1):
            solid = capsule(points[k], points[k + 1], steps[k], steps[k + 1])
            self.model.add(*solid, PLAIN, self.skin)

    def thing(self, solid: tuple[np.ndarray, np.ndarray], colour: np.ndarray, shine: float = 0.2) -> None:
        self.model.add(*solid, PLAIN, self.model.add_plain(colour, shine))

    def arm(self, hand: np.ndarray, wrist: np.ndarray, radii: tuple[float, float] = (0.3, 0.28)) -> None:
        """The back of the hand and the arm below it."""
        self.limb(radii, hand, wrist)
        self.limb((0.27, 0.36), wrist, wrist + self.at(0.5, -1.6, 0.2))


def add_prop(model: Model, wear: Wear, scene: Scene) -> None:
    """What hides part of the face."""
    hands = _Hands(model, scene.stream(13))
    {
        "chin in hand": _chin_in_hand,
        "hand at cheek": _hand_at_cheek,
        "hands at cheeks": _hands_at_cheeks,
        "hand before mouth": _hand_before_mouth,
        "hand over eye": _hand_over_eye,
        "strands": _strands,
        "phone": _phone,
        "cup": _cup,
        "microphone": _microphone,
    }[wear.prop](hands)


def _chin_in_hand(hands: _Hands) -> None:
    """The thumb at one cheek, bent fingers below and before the chin."""
    y = hands.rng.uniform(6.15, 6.35)
    for k in range(4):
        x = 0.3 - 0.17 * k
        tip = hands.on_face(x, y + 0.12, 0.06)
        hands.limb((0.1, FINGER), hands.on_face(0.25 - 0.1 * k, y - 0.15, 0.1), tip)
    hands.limb((0.11, FINGER), hands.at(0.5, y - 0.2, 1.0), hands.on_face(0.6, y + 0.45, 0.03))
    hands.arm(hands.at(0.1, y - 0.35, 1.15), hands.at(0.3, y - 0.75, 1.15), (0.3, 0.34))


def _hand_at_cheek(hands: _Hands) -> None:
    """Fingers that lie upwards along one cheek."""
    y, lean = hands.rng.uniform(6.3, 6.6), hands.rng.uniform(-0.05, 0.2)
    for k in range(4):
        x, length = 0.42 + 0.16 * k, (0.6, 0.7, 0.65, 0.5)[k]
        middle = hands.on_face(x + 0.5 * lean, y + 0.5 * length, 0.05)
        tip = hands.on_face(x + lean, y + length, 0.03)
        hands.limb((0.1, 0.075), hands.on_face(x, y, 0.07), middle, tip)
    hands.arm(hands.at(0.6, y - 0.2, 0.95), hands.at(0.75, y - 0.85, 0.95), (0.32, 0.28))


def _hands_at_cheeks(hands: _Hands) -> None:
    """Both hands at the cheeks, as in fright."""
    for _ in range(2):
        _hand_at_cheek(hands)
        hands.side = -hands.side


def _hand_over_eye(hands: _Hands) -> None:
    """Fingers that lie over the forehead and perhaps an eye."""
    y, tilt = hands.rng.uniform(7.25, 7.75), hands.rng.uniform(-0.1, 0.35)
    for k in range(4):
        height, reach = y + 0.165 * k, -0.1 + 0.1 * abs(k - 1.5)
        points = [hands.on_face(x, height + tilt * (x - 0.4), 0.05) for x in (0.6, 0.35, reach)]
        hands.limb((0.1, FINGER), *points)
    hands.arm(hands.at(0.9, y + 0.15, 1.05), hands.at(1.2, y - 0.5, 1.2))


def _strands(hands: _Hands) -> None:
    """Locks of hair that hang from the hairline over the face."""
    rng, model = hands.rng, hands.model
    root, end, low = rng.uniform(-0.3, 0.4), rng.uniform(0.1, 0.65), rng.uniform(6.4, 7.2)
    for _ in range(int(rng.integers(4, 14))):
        shade = model.add_plain(model.look.hair_colour * np.exp(rng.normal(0, 0.25)), 0.05)
        start, stop = root + rng.normal(0, 0.12), end + rng.normal(0, 0.12)
        foot, thick = low + rng.normal(0, 0.15), rng.uniform(0.008, 0.024)
        heights = np.linspace(7.95, foot, 7)
        sides = start + (stop - start) * np.linspace(0, 1, 7) ** rng.uniform(0.6, 1.6)
        line = [hands.on_face(x, y, 0.05 + 0.03 * rng.random()) for x, y in zip(sides, heights, strict=True)]
        for k in range(6):
            radii = thick * (1 - k / 7), thick * (1 - (k + 1) / 7)
            model.add(*capsule(line[k], line[k + 1], *radii, 5), PLAIN, shade)


def _hand_before_mouth(hands: _Hands) -> None:
    """Fingers across the mouth or the chin."""
    y, tilt = hands.rng.uniform(6.5, 6.75), hands.rng.uniform(-0.15, 0.2)
    for k in range(int(hands.rng.integers(2, 5))):
        height, reach = y - 0.165 * k, -0.25 + 0.08 * abs(k - 1)
        points = [hands.on_face(x, height + tilt * x, 0.06) for x in (0.65, 0.2, reach)]
        hands.limb((0.1, FINGER), *points)
    hands.arm(hands.at(0.8, y - 0.25, 1.1), hands.at(1.05, y - 0.75, 1.1))


def _phone(hands: _Hands) -> None:
    """A telephone at the ear and the hand that holds it."""
    lean = hands.rng.uniform(0.1, 0.4)
    middle = hands.at(0.98, 6.85, 0.5)
    hands.thing(slab(middle, np.array([0.06, 0.75, 0.38]), lean), cloth_colour(hands.rng) * 0.3)
    for k in range(4):
        y = 6.95 - 0.17 * k
        hands.limb(
            (0.1, FINGER), hands.at(1.08, y, 0.3), hands.at(1.08, y + 0.02, 0.75), hands.at(0.95, y, 0.9)
        )
    hands.arm(hands.at(1.15, 6.6, 0.4), hands.at(1.15, 6.1, 0.5))


def _cup(hands: _Hands) -> None:
    """A cup at the mouth."""
    top = hands.on_face(0.0, 6.6, 0.42)
    low = top + np.array([0.0, -0.8, 0.15])
    hands.thing(capsule(low, top, 0.3, 0.38), cloth_colour(hands.rng), 0.3)
    for k in range(4):
        place = top + np.array([0, -0.2 - 0.17 * k, 0.03 * k])
        points = (hands.at(0.5, 0, -0.1), hands.at(0.3, 0, 0.32), hands.at(-0.1, 0, 0.4))
        hands.limb((0.1, FINGER), *(place + point for point in points))
    hands.arm(hands.at(0.6, 6.2, 1.7), hands.at(0.9, 5.7, 1.6), (0.28, 0.28))


def _microphone(hands: _Hands) -> None:
    """Microphones before the mouth or the chin, some with the box of a station."""
    for _ in range(int(hands.rng.choice([1, 1, 1, 2, 4]))):
        head = hands.on_face(hands.rng.uniform(0, 0.35), hands.rng.uniform(6.05, 6.5), 0.45)
        foot = head + hands.at(hands.rng.uniform(0, 0.4), -1.3, 0.5)
        dark, size = hands.rng.uniform(0.01, 0.1, 3), hands.rng.uniform(0.15, 0.25)
        hands.thing(capsule(head, head + (foot - head) * 0.05, size, 0.9 * size), dark, 0.1)
        hands.thing(capsule(head, foot, 0.55 * size, 0.4 * size), dark * 0.7)
        if hands.rng.random() < 0.4:
            half = np.array([0.2, 0.13, 0.2])
            hands.thing(slab(head + 0.3 * (foot - head), half, 0.3), cloth_colour(hands.rng))
        hands.side = -hands.side
