"""What the picture shows before the face without standing in the model: people, edges, things, writing."""

import string
from collections.abc import Callable

import cv2
import numpy as np

from synthetic_faces.colours import cloth_colour, draw_person_colours
from synthetic_faces.scene import Scene

LETTERS = list(string.ascii_uppercase + string.digits)
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)


def occlude(scene: Scene, image: np.ndarray) -> np.ndarray:
    """`image` `[S, S, 3]` of linear light with `scene.occluder` before it."""
    rng = scene.stream(9)
    return _PAINTERS[scene.occluder](rng, image)


def words(rng: np.random.Generator, most: int = 9) -> str:
    """A few letters."""
    return "".join(rng.choice(LETTERS, int(rng.integers(2, most))))


def lettering(side: int, lines: list[tuple[str, tuple[int, int]]], font: int, scale: float) -> np.ndarray:
    """How much ink covers each pixel, `[side, side, 1]` float32; a line is a text and where it starts."""
    ink = np.zeros((side, side), np.uint8)
    for text, place in lines:
        cv2.putText(ink, text, place, font, scale, 255, max(1, round(1.7 * scale)), cv2.LINE_AA)
    return ink[..., None] * np.float32(1 / 255)


def _blend(image: np.ndarray, mask: np.ndarray, colour: np.ndarray, soft: float) -> np.ndarray:
    share = cv2.GaussianBlur(mask, (0, 0), soft)[..., None]
    return image + share * (colour.astype(np.float32) - image)


def _grain(rng: np.random.Generator, side: int, level: float) -> np.ndarray:
    """Light and shade of a surface, `[S, S, 1]`."""
    rough = cv2.resize(rng.standard_normal((7, 7), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    slope = np.linspace(-1, 1, side, dtype=np.float32) * np.float32(rng.normal(0, 0.5))
    return (level * np.exp(0.15 * rough + slope))[..., None].astype(np.float32)


def _neighbour(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Somebody who stands nearer to the camera: a shoulder, the back or the side of a head."""
    side = len(image)
    skin, hair, cloth = draw_person_colours(rng)
    hand = float(rng.choice([-1, 1]))
    x = (0.5 + hand * rng.uniform(0.42, 0.62)) * side
    y, size = rng.uniform(0.62, 1.0) * side, rng.uniform(0.2, 0.34) * side
    soft, shade = float(rng.uniform(0.6, 2.5)) * side / 96, _grain(rng, side, 0.35 + 0.8 * image.mean())
    parts = (
        (x + hand * 0.2 * size, y + 1.9 * size, 1.7 * size, 1.1 * size, cloth),
        (x, y + 0.75 * size, 0.5 * size, 0.8 * size, skin),
        (x, y, 0.75 * size, size, hair),
    )
    for cx, cy, wide, tall, colour in parts:
        mask = np.zeros((side, side), np.float32)
        axes = (max(1, int(wide)), max(1, int(tall)))
        cv2.ellipse(mask, (int(cx), int(cy)), axes, float(rng.uniform(-12, 12)), 0, 360, 1.0, -1)
        image = _blend(image, mask, colour * shade, soft)
    return image


def _edge(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A door, a post or a leaf that cuts into the picture from one side, or a bar across it."""
    side = len(image)
    mask = np.zeros((side, side), np.float32)
    if rng.random() < 0.7:
        depth = side * rng.uniform(0.1, 0.36)
        near, far = (int(depth + rng.normal(0, 0.06) * side) for _ in range(2))
        cv2.fillPoly(mask, [np.array([(-5, -5), (near, -5), (far, side + 5), (-5, side + 5)], np.int32)], 1.0)
        mask = np.ascontiguousarray(np.rot90(mask, rng.choice([0, 1, 2, 2, 0])))
    else:
        start, end = (int(value) for value in rng.uniform(0, side, 2))
        cv2.line(mask, (-5, start), (side + 5, end), 1.0, int(rng.integers(2, max(3, side // 10))))
    shade = _grain(rng, side, 0.2 + 1.2 * float(image.mean()))
    return _blend(image, mask, cloth_colour(rng) * shade, float(rng.uniform(0.4, 3.0)) * side / 96)


def _thing(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Something round or square before the lower face: a ball, a book, a bottle, a bunch of microphones."""
    side = len(image)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        mask = np.zeros((side, side), np.float32)
        x, y = rng.uniform(0.15, 0.85) * side, rng.uniform(0.78, 1.05) * side
        wide, tall = rng.uniform(0.05, 0.22) * side, rng.uniform(0.12, 0.3) * side
        lean = float(rng.uniform(-35, 35))
        if rng.random() < 0.6:
            cv2.ellipse(mask, (int(x), int(y)), (int(wide) + 1, int(tall) + 1), lean, 0, 360, 1.0, -1)
        else:
            box = cv2.boxPoints(((float(x), float(y)), (float(2 * wide), float(2 * tall)), lean))
            cv2.fillPoly(mask, [box.astype(np.int32)], 1.0)
        shade = _grain(rng, side, 0.2 + 1.2 * float(image.mean()))
        image = _blend(image, mask, cloth_colour(rng) * shade, float(rng.uniform(0.4, 1.2)) * side / 96)
    return image


def _text(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A caption or a watermark."""
    side = len(image)
    scale, font = float(rng.uniform(0.3, 0.7)) * side / 96, int(rng.choice(FONTS))
    y = int(side * (rng.uniform(0.85, 0.97) if rng.random() < 0.7 else rng.uniform(0.2, 0.9)))
    x, text = int(side * rng.uniform(-0.05, 0.4)), words(rng) + " " + words(rng)
    mask = lettering(side, [(text, (x, y))], font, scale) * np.float32(rng.uniform(0.3, 1.0))
    bright = np.float32(rng.choice([0.0, 0.9], p=[0.2, 0.8]))
    return image + mask * (bright - image)


_PAINTERS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "neighbour": _neighbour,
    "edge": _edge,
    "thing": _thing,
    "text": _text,
}
