"""Details: relief of the skin, strands of hair, eyes, teeth and gums."""

import math

import numpy as np
from numba import njit

from synthetic_faces.kernels.scalars import clamp, step

UPPER_WIDTHS = np.array([0.086, 0.152, 0.230, 0.302, 0.372, 0.475])  # where teeth end, from the middle
LOWER_WIDTHS = np.array([0.054, 0.114, 0.184, 0.258, 0.332, 0.44])


@njit(cache=True)
def relieved(relief, first_row, first_column, row, column, normal, up):
    """The `normal` where the relief `[h, w, 3]` lies on a surface whose texture runs along `up`, and how deep
    in a groove the point is; `row` and `column` in texels of the whole texture."""
    row -= first_row
    column -= first_column
    nx, ny, nz = normal
    if not (0 <= row < relief.shape[0] - 1 and 0 <= column < relief.shape[1] - 1):
        return nx, ny, nz, 0.0
    j, i = int(row), int(column)
    dv, du = row - j, column - i
    a, b, c, d = (1 - dv) * (1 - du), (1 - dv) * du, dv * (1 - du), dv * du
    across = (
        a * relief[j, i, 0] + b * relief[j, i + 1, 0] + c * relief[j + 1, i, 0] + d * relief[j + 1, i + 1, 0]
    )
    rise = (
        a * relief[j, i, 1] + b * relief[j, i + 1, 1] + c * relief[j + 1, i, 1] + d * relief[j + 1, i + 1, 1]
    )
    depth = (
        a * relief[j, i, 2] + b * relief[j, i + 1, 2] + c * relief[j + 1, i, 2] + d * relief[j + 1, i + 1, 2]
    )
    ux, uy, uz = up[1] * nz - up[2] * ny, up[2] * nx - up[0] * nz, up[0] * ny - up[1] * nx
    length = math.sqrt(ux * ux + uy * uy + uz * uz) + 1e-6
    ux, uy, uz = ux / length, uy / length, uz / length
    vx, vy, vz = ny * uz - nz * uy, nz * ux - nx * uz, nx * uy - ny * ux
    nx, ny, nz = nx - across * ux - rise * vx, ny - across * uy - rise * vy, nz - across * uz - rise * vz
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
    return nx / length, ny / length, nz / length, depth


@njit(cache=True)
def tooth(along, height, white, colour):
    """The colour of a row of teeth; `along` the arch from the middle in decimetres, its sign without meaning;
    `height` 0 at the edge, 1 at the gum's rim, < 0 for lower teeth (-1 is their gum). `white` `[3]`."""
    lower = height < 0
    along, height = abs(along), abs(height)
    ends = LOWER_WIDTHS if lower else UPPER_WIDTHS
    k = 0
    while k < 5 and along > ends[k]:
        k += 1
    start = ends[k - 1] if k else 0.0
    place = clamp(2 * (along - start) / (ends[k] - start) - 1, -1.0, 1.0)  # -1..1 across the tooth
    away = (1 - abs(place)) * 0.5 * (ends[k] - start)  # decimetres to the next tooth
    gum = 1.0 - 0.22 * place * place - (0.06 if k == 1 else 0.0)
    notch = 0.05 * place**4 + (0.04 if k == 1 and not lower else 0.0)  # rounded corners at the edge
    dim = (0.62 + 0.38 * step(0.0, 0.009, away)) * (1 - 0.8 * step(0.13, 0.42, along))
    flesh = step(gum - 0.04, gum + 0.04, height)
    edge = step(notch - 0.03, notch + 0.05, height)
    dim *= (0.8 if lower else 1.0) * (0.85 + 0.15 * step(0.0, 0.5, height))
    pink = (0.50, 0.17, 0.16)
    for q in range(3):
        shown = white[q] * dim
        shown += flesh * (
            pink[q] * (1 - 0.7 * step(0.13, 0.42, along)) * (1 - 0.4 * step(1.2, 2.0, height)) - shown
        )
        colour[q] = 0.012 + edge * shown
    return edge


@njit(cache=True)
def combed(tilt, normal, up):
    """The `normal` of hair with a strand tilted along `up`."""
    nx, ny, nz = normal[0] + tilt * up[0], normal[1] + tilt * up[1], normal[2] + tilt * up[2]
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    return nx / length, ny / length, nz / length


@njit(cache=True)
def iris(local, look, colour):
    """The colour of an eyeball at `local`, z through the pupil: white, iris with a dark ring and rays, pupil;
    `look` is a palette's `eye`. -> how near the upper lid is, 1 = near."""
    x, y, z = local
    whole = math.sqrt(x * x + y * y + z * z) + 1e-9
    radius = (math.sqrt(x * x + y * y) / whole if z >= 0 else 2.0) / look[3]
    inside = step(1.1, 0.92, radius)
    pupil = step(look[4] + 0.08, look[4] - 0.04, radius)
    ring = (1 - 0.65 * step(0.7, 1.0, radius)) * (1 + 0.5 * step(0.9, 0.4, radius))
    rays = 1 + 0.25 * math.sin(math.atan2(y, x) * 17.0 + radius * 5)
    pink = step(0.35, 0.8, abs(x) / (math.sqrt(x * x + z * z) + 1e-9))
    for k in range(3):
        white = (0.47, 0.43, 0.41)[k] * look[5] * (1 - pink * (0.45, 0.6, 0.6)[k])
        shown = look[k] * ring * rays * (1 - pupil) + 0.004
        colour[k] = white + inside * (shown - white)
    return step(-0.15, 0.5, y / whole)
