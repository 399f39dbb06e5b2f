"""The colour of each visible point: material, shadow, lights."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from synthetic_faces.kernels.details import combed, iris, relieved, tooth
from synthetic_faces.kernels.raster import Hits
from synthetic_faces.kernels.scalars import clamp, step, strand
from synthetic_faces.kernels.texels import mix, mix3, texel, textured

SKIN, EYE, TEETH, TONGUE, LASH, HAIR, CLOTH, PLAIN = range(8)  # materials
LIPS, INSIDE, EAR, OCCLUSION, HOLLOW = range(5)  # columns of a mesh's attributes
TOP, BOTTOM = 8.6, 5.2  # heights of the texture's edges, decimetres


class Surface(NamedTuple):
    """Geometry of a picture: `triangles` `[T, 3]` with `layer` and `material` `[T]`; of the vertices
    `points`, `normals`, `local` (of eyes and teeth) `[V, 3]`, `uv` `[V, 2]`, `attributes` `[V, 5]`."""

    triangles: np.ndarray
    layer: np.ndarray
    material: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    attributes: np.ndarray
    local: np.ndarray


class Palette(NamedTuple):
    """Colours of a picture: `albedo` `[L, h, w, 3]`; `plain` `[P, 4]` colour and shine; `eye` `[6]` iris
    colour, iris size, pupil size, white; `lip` `[5]` colour, strength, gloss; `skin` `[3]`, its `gloss` and
    `oil`, spread by `oily` `[h, w]`; `collar` `[w]` the height below which layer `cloth` covers skin; `teeth`
    `[3]` their colour."""

    albedo: np.ndarray
    plain: np.ndarray
    eye: np.ndarray
    lip: np.ndarray
    skin: np.ndarray
    gloss: float
    oil: float
    oily: np.ndarray
    collar: np.ndarray
    cloth: int
    teeth: np.ndarray


class Relief(NamedTuple):
    """The fine shape of the skin: `slopes` `[h, w, 3]` to the side, upwards, and the depth of grooves, on the
    part of the texture from `row` and `column` on; `up` `[3]` the head's vertical."""

    slopes: np.ndarray
    row: int
    column: int
    up: np.ndarray


class Illumination(NamedTuple):
    """`lights` `[N, 8]` direction, colour, casts shadows, size; `sky`, `ground` `[3]` ambient light; `shadow`
    `[S, S]` the depth map of the first light and its `axes` `[3, 3]`; `screen` `[N, N]` the share of that
    light that passes leaves, blinds or a roof's edge, over the same area."""

    lights: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    shadow: np.ndarray
    axes: np.ndarray
    screen: np.ndarray


class Finish(NamedTuple):
    """How a material takes light: ambient occlusion, wrap of each colour, highlight and its sharpness."""

    occlusion: float
    wrap_red: float
    wrap_green: float
    wrap_blue: float
    shine: float
    power: float


@njit(cache=True)
def grooved(finish, depth, colour):
    """A groove is darker, redder and dull."""
    colour[0] *= 1 - 0.22 * depth
    colour[1] *= 1 - 0.37 * depth
    colour[2] *= 1 - 0.37 * depth
    dark = finish.occlusion * (1 - 0.33 * depth)
    wraps = (finish.wrap_red, finish.wrap_green, finish.wrap_blue)
    return Finish(dark, *wraps, finish.shine * (1 - 0.7 * depth), finish.power)


@njit(cache=True, inline="always")
def skin(surface, palette, corners, weights, column, v, occlusion, colour):
    """Skin, ears, lips, the inside of the mouth, and the shirt below the collar."""
    if TOP - (TOP - BOTTOM) * (v / palette.albedo.shape[1]) < palette.collar[column]:
        for k in range(3):
            colour[k] = palette.albedo[palette.cloth, int(v), column, k]
        return Finish(occlusion, 0.1, 0.1, 0.1, 0.0, 20.0)
    attributes = surface.attributes
    occlusion *= clamp(1 - 1.6 * mix(attributes, corners, weights, HOLLOW), 0.5, 1.15)
    ear = mix(attributes, corners, weights, EAR)
    hole = 1 - step(0.05, 0.4, mix(attributes, corners, weights, OCCLUSION))  # nostrils
    lips = step(0.25, 0.75, mix(attributes, corners, weights, LIPS))
    for k in range(3):
        colour[k] += ear * (palette.skin[k] * (1.05 if k == 0 else 0.95) - colour[k])
        colour[k] += lips * palette.lip[3] * (palette.lip[k] - colour[k])
        colour[k] *= 1 - hole * (0.7, 0.85, 0.85)[k]
    inside = mix(attributes, corners, weights, INSIDE)
    occlusion *= 1 - 0.65 * step(0.0, 0.6, inside)  # the line between closed lips
    if inside > 0.5:
        deep = step(1.45, 1.2, mix(surface.local, corners, weights, 2))
        occlusion *= 0.4 - 0.3 * deep
        for k in range(3):
            colour[k] = (0.26, 0.06, 0.06)[k] * (1 - 0.9 * deep)
    oil = palette.oil * palette.oily[int(v), column]
    shine = palette.gloss * (0.6 + oil + lips * palette.lip[4])
    return Finish(occlusion, 0.27, 0.16, 0.11, shine, 12.0 + 14 * max(lips, min(oil, 1.5)))


@njit(cache=True)
def eye(surface, palette, corners, weights, occlusion, colour):
    """An eyeball, in the shade of its lid."""
    under_lid = iris(mix3(surface.local, corners, weights), palette.eye, colour)
    return Finish(occlusion * (0.95 - 0.65 * under_lid), 0.4, 0.4, 0.4, 1.3, 240.0)


@njit(cache=True, inline="always")
def material(surface, palette, t, corners, weights, colour):
    """The colour of a point of triangle `t`, into `colour`; -> its Finish."""
    kind, layer = surface.material[t], surface.layer[t]
    occlusion = mix(surface.attributes, corners, weights, OCCLUSION)
    if kind in (SKIN, HAIR, CLOTH):
        column, v = textured(surface, palette.albedo, layer, corners, weights, colour)
        if kind == SKIN:
            return skin(surface, palette, corners, weights, column, v, occlusion, colour)
        wrap = 0.1
        if kind == HAIR:
            wrap = 0.35
        return Finish(occlusion, wrap, wrap, wrap, 0.0, 20.0)
    if kind == EYE:
        return eye(surface, palette, corners, weights, occlusion, colour)
    if kind == TEETH:
        along, height = mix(surface.local, corners, weights, 0), mix(surface.local, corners, weights, 1)
        seen = tooth(along, height, palette.teeth, colour) * occlusion
        for k in range(3):
            colour[k] *= occlusion
        return Finish(occlusion * (1 - 0.7 * step(0.1, 0.4, abs(along))), 0.4, 0.4, 0.4, 0.25 * seen, 40.0)
    if kind == TONGUE:
        back = 1 - 0.85 * step(1.3, 0.95, mix(surface.local, corners, weights, 2))
        colour[0], colour[1], colour[2] = 0.40 * back, 0.13 * back, 0.13 * back
        return Finish(occlusion, 0.2, 0.15, 0.15, 0.15 * back, 25.0)
    for k in range(3):
        colour[k] = palette.plain[layer, k]
    return Finish(occlusion, 0.1, 0.1, 0.1, palette.plain[layer, 3], 30.0)


@njit(cache=True, inline="always")
def lit_share(illumination, point, slope):
    """How much of the first light arrives at `point`, whose normal has the cosine `slope` to it: the shadow
    map, blurred over four texels."""
    shadow, axes = illumination.shadow, illumination.axes
    side = shadow.shape[0]
    x = point[0] * axes[0, 0] + point[1] * axes[0, 1] + point[2] * axes[0, 2] + 0.5 * side
    y = point[0] * axes[1, 0] + point[1] * axes[1, 1] + point[2] * axes[1, 2] + 0.5 * side
    texel = 4.4 / side  # decimetres; a coarse map would let the surface shade itself
    z = point[0] * axes[2, 0] + point[1] * axes[2, 1] + point[2] * axes[2, 2] + 0.015 + 1.5 * texel
    z += (0.01 + 1.3 * texel) * (1 - clamp(slope, 0.0, 1.0))
    if not (1 <= x < side - 3 and 1 <= y < side - 3):
        return 1.0
    lit = 0.0
    for row in range(int(y) - 1, int(y) + 3):
        along = 0.0
        for column in range(int(x) - 1, int(x) + 3):
            if shadow[row, column] <= z:
                along += 2 - abs(x - column)
        lit += along * (2 - abs(y - row))
    lit /= 16.0  # the sum of the weights
    screen = illumination.screen
    if screen.shape[0] > 1:
        lit *= screen[int(y * screen.shape[0] / side), int(x * screen.shape[0] / side)]
    return lit


@njit(cache=True, inline="always")
def highlight(kind, finish, colour, normal, view, light, size, slope, facing, lit):
    """Strength of the light's reflection: along the strands of hair, else about the mirror direction, wider
    and weaker for lamps of a larger `size`."""
    hx, hy, hz = light[0] + view[0], light[1] + view[1], light[2] + view[2]
    length = math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
    nx, ny, nz = normal
    if kind == HAIR:
        tx, ty, tz = -nx * ny, 1 - ny * ny, -nz * ny  # strands hang: the vertical, along the surface
        tangent = math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-6
        along = (tx * hx + ty * hy + tz * hz) / (tangent * length)
        across = max(0.0, 1 - along * along) ** 4
        strength = 0.10 * across**5 * clamp(slope + 0.2, 0.0, 1.0) * lit
        return strength * (colour[0] + colour[1] + colour[2] + 0.12)
    if finish.shine <= 0 or slope <= 0:
        return 0.0
    mirror = clamp((nx * hx + ny * hy + nz * hz) / length, 0.0, 1.0)
    if mirror < 0.5:  # nothing is left of it after the power
        return 0.0
    rim = 0.5 + 1.5 * (1 - clamp(facing, 0.0, 1.0)) ** 3 if kind == SKIN else 1.0
    power = finish.power / (1 + (0.5 if kind == EYE else 1.5) * size)  # a wet ball is sharp
    strength = finish.shine * math.pow(mirror, power) * rim * clamp(slope * 4, 0.0, 1.0) * lit
    strength /= 1 + 0.7 * size
    return min(strength, 0.6 / (1 + size)) if kind == EYE else strength


@njit(cache=True, inline="always")
def light_up(illumination, kind, finish, colour, point, normal, view, facing, out):
    """The light that leaves a point towards the camera, into `out` `[3]`."""
    sky, ground, lights = illumination.sky, illumination.ground, illumination.lights
    up = 0.5 + 0.5 * normal[1]
    occlusion = finish.occlusion * math.sqrt(finish.occlusion)
    red = (ground[0] + up * (sky[0] - ground[0])) * occlusion
    green = (ground[1] + up * (sky[1] - ground[1])) * occlusion
    blue = (ground[2] + up * (sky[2] - ground[2])) * occlusion
    gloss_red = gloss_green = gloss_blue = 0.0
    soft = 0.35 + 0.65 * occlusion
    for q in range(lights.shape[0]):
        light = (lights[q, 0], lights[q, 1], lights[q, 2])
        slope = normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2]
        large = 0.25 * lights[q, 7]  # a large lamp reaches round the surface
        if slope < -0.4 - large:  # behind the surface, beyond any wrap
            continue
        lit = lit_share(illumination, point, slope) if lights[q, 6] > 0 else 1.0
        lit += 0.4 * lights[q, 7] * (1 - lit)
        wrap_red, wrap_green, wrap_blue = (
            finish.wrap_red + large,
            finish.wrap_green + large,
            finish.wrap_blue + large,
        )
        share_red = clamp((slope + wrap_red) / (1 + wrap_red), 0.0, 1.0) * soft
        share_green = clamp((slope + wrap_green) / (1 + wrap_green), 0.0, 1.0) * soft
        share_blue = clamp((slope + wrap_blue) / (1 + wrap_blue), 0.0, 1.0) * soft
        if kind == SKIN:  # light leaks red into the shadow's edge
            share_red *= 0.12 + 0.88 * lit if lit < 1 else 1.0
        else:
            share_red *= lit
        red += share_red * lights[q, 3]
        green += share_green * lit * lights[q, 4]
        blue += share_blue * lit * lights[q, 5]
        gloss = highlight(kind, finish, colour, normal, view, light, lights[q, 7], slope, facing, lit)
        gloss_red += gloss * lights[q, 3]
        gloss_green += gloss * lights[q, 4]
        gloss_blue += gloss * lights[q, 5]
    out[0] = colour[0] * red + gloss_red
    out[1] = colour[1] * green + gloss_green
    out[2] = colour[2] * blue + gloss_blue


@njit(cache=True)
def shade(
    image: np.ndarray,
    hits: Hits,
    surface: Surface,
    palette: Palette,
    illumination: Illumination,
    camera: float,
    relief: Relief,
) -> None:
    """Linear light of every pixel that shows something, into `image` `[H, W, 3]`; the camera is at z =
    `camera`."""
    colour = np.zeros(3)
    for j in range(image.shape[0]):
        for i in range(image.shape[1]):
            t = hits.triangle[j, i]
            if t < 0:
                continue
            corners = (surface.triangles[t, 0], surface.triangles[t, 1], surface.triangles[t, 2])
            weights = (1 - hits.second[j, i] - hits.third[j, i], hits.second[j, i], hits.third[j, i])
            kind = surface.material[t]
            px, py, pz = mix3(surface.points, corners, weights)
            nx, ny, nz = mix3(surface.normals, corners, weights)
            length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
            nx, ny, nz = nx / length, ny / length, nz / length
            groove = tone = 0.0
            if kind in (SKIN, HAIR):
                row, column = texel(surface, palette.albedo, corners, weights)
            if kind == SKIN:
                place = (relief.row, relief.column, row, column)
                nx, ny, nz, groove = relieved(relief.slopes, *place, (nx, ny, nz), relief.up)
            elif kind == HAIR:
                tone = 0.22 * strand(row, column)
                nx, ny, nz = combed(tone, (nx, ny, nz), relief.up)
            vx, vy, vz = -px, -py, camera - pz
            length = math.sqrt(vx * vx + vy * vy + vz * vz)
            vx, vy, vz = vx / length, vy / length, vz / length
            facing = nx * vx + ny * vy + nz * vz
            if facing < 0 and kind != SKIN:
                nx, ny, nz, facing = -nx, -ny, -nz, -facing
            finish = material(surface, palette, t, corners, weights, colour)
            if groove > 0:
                finish = grooved(finish, groove, colour)
            for k in range(3):
                colour[k] *= 1 + tone
            light_up(
                illumination,
                kind,
                finish,
                colour,
                (px, py, pz),
                (nx, ny, nz),
                (vx, vy, vz),
                facing,
                image[j, i],
            )
