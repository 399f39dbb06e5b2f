"""Places that painters draw into an image `[S, S, 3]` of linear light: studio, room, shelves, crowd, street,
trees, stage, signs."""

from collections.abc import Callable

import cv2
import numpy as np

from synthetic_faces.colours import cloth_colour, draw_person_colours
from synthetic_faces.occluders import FONTS, lettering, words

Painter = Callable[[np.random.Generator, np.ndarray], None]
Colour = tuple[float, ...]


def _muted(rng: np.random.Generator) -> np.ndarray:
    """A colour as rooms and streets have: mostly near grey."""
    colour = cloth_colour(rng)
    return colour + rng.uniform(0.2, 1.0) * (colour.mean() - colour)


def _colour(rng: np.random.Generator, level: float = 1.0) -> Colour:
    return tuple(float(value) for value in _muted(rng) * level)


def _box(
    image: np.ndarray, x: float, y: float, wide: float, tall: float, colour: Colour, line: int = -1
) -> None:
    start, end = (int(x), int(y)), (int(x + wide), int(y + tall))
    cv2.rectangle(image, start, end, colour, line)


def _ramp(rng: np.random.Generator, image: np.ndarray) -> None:
    """A gradient between two colours, which are often alike."""
    first, second = _muted(rng), _muted(rng)
    second = first + rng.choice([0.0, 0.3, 1.0], p=[0.4, 0.4, 0.2]) * (second - first)
    corners = np.clip(0.5 + np.array([[-1, 0], [0, 1]]) * rng.uniform(0, 1), 0, 1)
    share = cv2.resize(np.rot90(corners, rng.integers(4)).astype(np.float32), image.shape[:2])
    image[:] = first + share[..., None] * (second - first)


def _studio(rng: np.random.Generator, image: np.ndarray) -> None:
    """A plain or clouded backdrop, lighter round the head."""
    _ramp(rng, image)
    side = len(image)
    place = (np.arange(side, dtype=np.float32) / side - rng.uniform(0.3, 0.7)) ** 2
    image *= np.exp(rng.uniform(-0.5, 1.2) * np.exp(-6 * (place[:, None] + place)))[..., None]
    if rng.random() < 0.4:
        rough = cv2.resize(
            rng.standard_normal((9, 9), np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
        image *= np.exp(0.25 * rough)[..., None]


def _room(rng: np.random.Generator, image: np.ndarray) -> None:
    """A wall with some of: window, door, pictures, lamp, curtain, table's edge."""
    _ramp(rng, image)
    side = len(image)
    if rng.random() < 0.3:  # a corner, the other wall in another light
        image[:, : int(rng.uniform(0.1, 0.9) * side)] *= np.float32(rng.uniform(0.4, 0.85))
    for painter in (_window, _door, _pictures, _curtain, _lamp, _furniture):
        if rng.random() < 0.35:
            painter(rng, image)


def _window(rng: np.random.Generator, image: np.ndarray) -> None:
    """Bright panes and their frame, perhaps with blinds."""
    side = len(image)
    x, y = rng.uniform(-0.2, 0.8) * side, rng.uniform(-0.2, 0.3) * side
    wide, tall = rng.uniform(0.25, 0.7) * side, rng.uniform(0.4, 0.8) * side
    sky = tuple(
        float(value) for value in rng.uniform(0.5, 1.6) * np.exp(np.array([-0.1, 0, 0.1]) * rng.normal(1, 1))
    )
    _box(image, x, y, wide, tall, sky)
    frame, line = _colour(rng), max(1, side // 48)
    if rng.random() < 0.35:
        for row in np.arange(y, y + tall, max(2.0, side / 24)):
            cv2.line(image, (int(x), int(row)), (int(x + wide), int(row)), frame, max(1, side // 96))
    for k in range(int(rng.integers(2, 5))):
        cv2.line(image, (int(x + wide * k / 3), int(y)), (int(x + wide * k / 3), int(y + tall)), frame, line)
    _box(image, x, y, wide, tall, frame, 2 * line)


def _door(rng: np.random.Generator, image: np.ndarray) -> None:
    side = len(image)
    x, y, wide = rng.uniform(-0.2, 0.9) * side, rng.uniform(-0.1, 0.25) * side, rng.uniform(0.2, 0.45) * side
    _box(image, x, y, wide, 1.2 * side, _colour(rng))
    _box(image, x, y, wide, 1.2 * side, _colour(rng), max(1, side // 40))


def _pictures(rng: np.random.Generator, image: np.ndarray) -> None:
    side = len(image)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.1, 0.9, 2) * side
        wide, tall = rng.uniform(0.1, 0.4, 2) * side
        _box(image, x, y, wide, tall, _colour(rng))
        _box(image, x + 0.2 * wide, y + 0.3 * tall, 0.5 * wide, 0.5 * tall, _colour(rng))
        _box(image, x, y, wide, tall, _colour(rng, 0.5), max(1, side // 64))


def _curtain(rng: np.random.Generator, image: np.ndarray) -> None:
    """Upright folds from one edge."""
    side = len(image)
    wide = int(rng.uniform(0.15, 1.0) * side)
    across = np.arange(wide, dtype=np.float32) / side
    waves = np.sin(across * rng.uniform(25, 90) + 2 * np.sin(across * rng.uniform(4, 12)))
    folds = (np.array(_muted(rng)) * np.exp(0.5 * waves)[:, None]).astype(np.float32)
    image[:, :wide] = folds
    if rng.random() < 0.5:
        image[:] = image[:, ::-1].copy()


def _lamp(rng: np.random.Generator, image: np.ndarray) -> None:
    """A bright thing with a glow round it."""
    side = len(image)
    x, y = rng.uniform(0, 1) * side, rng.uniform(0, 0.5) * side
    i, j = np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32)[:, None]
    near = np.exp(-((i - x) ** 2 + (j - y) ** 2) / (rng.uniform(0.05, 0.2) * side) ** 2)
    image += near[..., None] * np.array([1.3, 1.1, 0.8], np.float32) * np.float32(rng.uniform(0.4, 1.5))


def _furniture(rng: np.random.Generator, image: np.ndarray) -> None:
    side = len(image)
    top = rng.uniform(0.5, 0.9) * side
    _box(image, -5, top, side + 10, side, _colour(rng, 0.7))
    _box(image, -5, top, side + 10, max(1, side // 40), _colour(rng))


def _shelves(rng: np.random.Generator, image: np.ndarray) -> None:
    """Rows of books or boxes of many colours."""
    _ramp(rng, image)
    side = len(image)
    image *= np.float32(0.4)
    row, wood = rng.uniform(0.12, 0.35) * side, _colour(rng, 0.6)
    y = -rng.uniform(0, 1) * row
    while y < side:
        x = rng.uniform(-0.1, 0.1) * side
        while x < side:
            wide = rng.uniform(0.012, 0.07) * side + 1
            tall = row * rng.uniform(0.55, 0.9)
            colour = tuple(float(value) for value in cloth_colour(rng) * 0.8)
            _box(image, x, y + row - tall, wide, tall, colour)
            x += wide + (rng.uniform(0, 0.2) * side if rng.random() < 0.1 else 1)
        _box(image, -5, y + row, side + 10, max(1, side // 50), wood)
        y += row + max(2, side // 50)


def add_people(rng: np.random.Generator, image: np.ndarray, count: int, size: float = 0.0) -> None:
    """Others: cloth, neck, hair, a face with shaded side, dark eyes and mouth; the far ones first."""
    side = len(image)
    places = sorted(rng.uniform(0.2, 0.75, count))
    for y in places:
        tall = (size or rng.uniform(0.07, 0.2)) * side * rng.uniform(0.8, 1.2)
        x, y = rng.uniform(-0.05, 1.05) * side, y * side
        shade, lit = rng.uniform(0.35, 0.9), rng.choice([-1, 1])
        skin, hair, cloth = (colour * shade for colour in draw_person_colours(rng))
        dark = tuple(map(float, skin * rng.uniform(0.4, 0.7)))
        for dx, dy, wide, high, colour in (
            (0, 2.9, 1.7, 1.5, cloth),
            (0, 1.1, 0.4, 0.7, skin * 0.7),
            (0, -0.2, 0.86, 1.02, hair),
            (rng.normal(0, 0.1), 0.15, 0.7, 0.92, skin),
            (0.2 * lit, 0.2, 0.45, 0.8, skin * 1.25),
            (0.5 * lit, 2.9, 1.0, 1.3, cloth * 1.3),
        ):
            centre = (int(x + dx * tall), int(y + dy * tall))
            axes = (max(1, int(wide * tall)), max(1, int(high * tall)))
            cv2.ellipse(image, centre, axes, 0, 0, 360, tuple(map(float, colour)), -1)
        for dx, dy in ((-0.3, -0.02), (0.3, -0.02), (0.0, 0.55)):
            axes = (int(0.15 * tall), int(0.06 * tall))
            cv2.ellipse(image, (int(x + dx * tall), int(y + dy * tall)), axes, 0, 0, 360, dark, -1)


def _crowd(rng: np.random.Generator, image: np.ndarray) -> None:
    _ramp(rng, image)
    image *= np.float32(rng.uniform(0.2, 1))
    add_people(rng, image, int(rng.integers(6, 22)), float(rng.uniform(0.05, 0.13)))


def _street(rng: np.random.Generator, image: np.ndarray) -> None:
    """Fronts of houses with rows of windows below the sky, a road, cars' lights."""
    _sky(rng, image)
    side, x = len(image), -5.0
    while x < side:
        wide, top = rng.uniform(0.15, 0.6) * side, rng.uniform(-0.3, 0.5) * side
        wall, glass = _colour(rng), _colour(rng, 0.4)
        _box(image, x, top, wide, 2 * side, wall)
        step, gap = rng.uniform(0.06, 0.18) * side, rng.uniform(0.3, 0.7)
        if rng.random() < 0.8:
            for row in np.arange(top + 0.5 * step, 0.9 * side, step):
                for column in np.arange(x + 0.3 * step, x + wide - 0.5 * step, step):
                    _box(image, column, row, step * gap, step * gap, glass)
        x += wide
    _box(image, -5, rng.uniform(0.7, 1.0) * side, side + 10, side, _colour(rng, 0.5))
    if rng.random() < 0.3:
        _bokeh(rng, image)


def _sky(rng: np.random.Generator, image: np.ndarray) -> None:
    side = len(image)
    top = (
        np.array([0.35, 0.5, 0.8]) * rng.uniform(0.4, 1.4)
        if rng.random() < 0.6
        else np.full(3, rng.uniform(0.5, 1.3))
    )
    low = top + rng.uniform(0.2, 0.8) * (np.array([1.0, 0.98, 0.95]) - top)
    share = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    image[:] = top + share * (low - top)


def _trees(rng: np.random.Generator, image: np.ndarray) -> None:
    """Leaves at two scales with the sky between them, trunks, a lawn."""
    _sky(rng, image)
    side = len(image)
    green = np.array([rng.uniform(0.03, 0.22), rng.uniform(0.1, 0.25), rng.uniform(0.01, 0.07)], np.float32)
    leaves = np.zeros((side, side), np.float32)
    for cells, strength in ((6, 0.8), (16, 0.8), (44, 1.0)):
        low = rng.standard_normal((cells, cells), np.float32) * np.float32(strength)
        leaves += cv2.resize(low, (side, side), interpolation=cv2.INTER_LINEAR)
    density = rng.uniform(-0.3, 1.5) + np.linspace(-0.5, 1, side, dtype=np.float32)[:, None]
    share = np.clip(0.5 + 2 * (leaves + density), 0, 1)[..., None]
    image += share * (green * np.exp(0.5 * leaves[..., None]) - image)
    for _ in range(int(rng.integers(0, 4))):
        x = rng.uniform(0, 1) * side
        lean, thick = rng.normal(0, 0.05) * side, max(1, int(rng.uniform(0.01, 0.06) * side))
        cv2.line(image, (int(x), side), (int(x + lean), -5), (0.05, 0.04, 0.03), thick)
    if rng.random() < 0.4:
        _box(image, -5, rng.uniform(0.6, 0.9) * side, side + 10, side, tuple(map(float, green * 1.3)))


def _bokeh(rng: np.random.Generator, image: np.ndarray) -> None:
    """Bright discs, as lamps out of focus."""
    side = len(image)
    radius = int(rng.integers(1, max(3, side // 12)))
    for _ in range(int(rng.integers(5, 25))):
        x, y = (int(value) for value in rng.integers(0, side, 2))
        light = tuple(float(value) for value in rng.uniform(0.4, 1.6) * np.exp(rng.normal(0, 0.25, 3)))
        cv2.circle(image, (x, y), radius, light, -1)


def _stage(rng: np.random.Generator, image: np.ndarray) -> None:
    """Dark, with a curtain or beams, and lamps."""
    _ramp(rng, image)
    image *= np.float32(rng.uniform(0.02, 0.3))
    side = len(image)
    if rng.random() < 0.4:
        _curtain(rng, image)
        image *= np.float32(0.4)
    for _ in range(int(rng.integers(0, 4))):
        x, foot, wide = rng.uniform(0, 1) * side, rng.uniform(-0.3, 1.3) * side, rng.uniform(0.05, 0.3) * side
        beam = np.zeros((side, side), np.float32)
        cv2.fillPoly(beam, [np.array([(x, -5), (foot - wide, side), (foot + wide, side)], np.int32)], 1.0)
        image += beam[..., None] * (np.exp(rng.normal(0, 0.5, 3)) * rng.uniform(0.05, 0.4)).astype(np.float32)
    if rng.random() < 0.5:
        _bokeh(rng, image)


def _signs(rng: np.random.Generator, image: np.ndarray) -> None:
    """A wall with rows of the same words, as at press talks, or one sign."""
    _ramp(rng, image)
    side = len(image)
    font, scale = int(rng.choice(FONTS)), float(rng.uniform(0.25, 1.4)) * side / 96
    text = words(rng)
    (wide, tall), _ = cv2.getTextSize(text, font, scale, max(1, round(1.7 * scale)))
    if rng.random() < 0.5:
        across, down = wide * rng.uniform(1.3, 2), tall * rng.uniform(2, 4)
        places = [(column + 0.5 * (row % 2), row + 1) for row in range(-1, 9) for column in range(-1, 6)]
        lines = [(text, (int(column * across), int(row * down))) for column, row in places]
    else:
        corners = rng.uniform([-0.2, 0.0], [0.7, 0.9], (int(rng.integers(1, 4)), 2)) * side
        for x, y in corners:
            _box(image, x - 0.2 * wide, y - 1.6 * tall, 1.4 * wide, 2.2 * tall, _colour(rng))
        lines = [(words(rng), (int(x), int(y))) for x, y in corners]
    image += lettering(side, lines, font, scale) * (_muted(rng).astype(np.float32) - image)


PLACES: dict[str, tuple[Painter, float]] = {  # with their shares
    "studio": (_studio, 0.2),
    "room": (_room, 0.28),
    "shelves": (_shelves, 0.07),
    "crowd": (_crowd, 0.1),
    "street": (_street, 0.09),
    "trees": (_trees, 0.12),
    "stage": (_stage, 0.06),
    "signs": (_signs, 0.08),
}
