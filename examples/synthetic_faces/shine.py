"""Where a face shines: forehead, nose, cheekbones, chin, in grains as pores break it up."""

from functools import lru_cache

import numpy as np

from synthetic_faces.head import Head
from synthetic_faces.texture import noise, smoothstep

_SPOTS = (  # x, y, width, height in decimetres of the rest mesh, strength
    (0.0, 7.72, 0.34, 0.2, 1.0),
    (0.0, 6.98, 0.09, 0.34, 1.0),
    (0.07, 6.88, 0.06, 0.05, 0.5),
    (0.47, 7.0, 0.15, 0.12, 0.8),
    (0.0, 6.32, 0.16, 0.1, 0.6),
    (0.33, 7.42, 0.14, 0.05, 0.4),
)


@lru_cache(maxsize=2)
def shine_map(head: Head) -> np.ndarray:
    """Oil on the skin `[H, W]` float32, 0..1, the same for all people."""
    x, y = np.abs(head.texel_x), head.texel_y
    spots = [s * np.exp(-(((x - a) / w) ** 2) - ((y - b) / h) ** 2) for a, b, w, h, s in _SPOTS]
    rng = np.random.Generator(np.random.PCG64(5))
    grain = 1 + 0.3 * noise(rng, 0.7) + 0.25 * noise(rng, 4.0)
    front = smoothstep(1.5, 1.1, np.abs(head.texel_angle))
    return (np.clip(np.sum(spots, 0), 0, 1) * np.clip(grain, 0.2, 2) * front).astype(np.float32)
