"""Loops over the vertices of a mesh: normals, smoothing, hollows, turning the head."""

import math

import numpy as np
from numba import njit


@njit(cache=True)
def vertex_normals(points: np.ndarray, triangles: np.ndarray, out: np.ndarray) -> None:
    """Unit normals `[V, 3]` of `points` `[V, 3]`, weighted by the triangles' areas, into `out`."""
    out[:] = 0.0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            out[corner, 0] += nx
            out[corner, 1] += ny
            out[corner, 2] += nz
    for i in range(out.shape[0]):
        length = math.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-12
        for k in range(3):
            out[i, k] /= length


@njit(cache=True)
def smooth(
    points: np.ndarray, first: np.ndarray, neighbours: np.ndarray, rounds: int, free: np.ndarray
) -> np.ndarray:
    """Each free vertex goes half way to the mean of its neighbours, `rounds` times, in place.

    The neighbours of vertex i are `neighbours[first[i] : first[i + 1]]`.
    """
    for _ in range(rounds):
        before = points.copy()
        for i in range(points.shape[0]):
            count = first[i + 1] - first[i]
            if count and free[i]:
                for k in range(3):
                    total = 0.0
                    for j in range(first[i], first[i + 1]):
                        total += before[neighbours[j], k]
                    points[i, k] = 0.5 * before[i, k] + 0.5 * total / count
    return points


@njit(cache=True)
def hollows(
    points: np.ndarray, normals: np.ndarray, first: np.ndarray, neighbours: np.ndarray, out: np.ndarray
) -> None:
    """How hollow the surface is at each vertex, into `out` `[V]`: above 0 in folds, below 0 on ridges, in
    units of the edges' length."""
    for i in range(points.shape[0]):
        out[i] = 0.0
        if first[i + 1] > first[i]:
            rise = 0.0
            length = 0.0
            for j in range(first[i], first[i + 1]):
                k = neighbours[j]
                dx = points[k, 0] - points[i, 0]
                dy = points[k, 1] - points[i, 1]
                dz = points[k, 2] - points[i, 2]
                rise += dx * normals[i, 0] + dy * normals[i, 1] + dz * normals[i, 2]
                length += math.sqrt(dx * dx + dy * dy + dz * dz)
            out[i] = rise / (length + 1e-9)


@njit(cache=True)
def turn(
    points: np.ndarray, weight: np.ndarray, head: np.ndarray, body: np.ndarray, pivot: np.ndarray
) -> None:
    """Turn every vertex about `pivot`, in place, by angles between the body's (weight 0) and the head's
    (weight 1): Ry(yaw) Rx(-pitch) Rz(-roll), in radians."""
    for i in range(points.shape[0]):
        w = weight[i]
        yaw = body[0] + w * (head[0] - body[0])
        pitch = body[1] + w * (head[1] - body[1])
        roll = body[2] + w * (head[2] - body[2])
        x, y, z = points[i, 0] - pivot[0], points[i, 1] - pivot[1], points[i, 2] - pivot[2]
        c, s = math.cos(-roll), math.sin(-roll)
        x, y = c * x - s * y, s * x + c * y
        c, s = math.cos(-pitch), math.sin(-pitch)
        y, z = c * y - s * z, s * y + c * z
        c, s = math.cos(yaw), math.sin(yaw)
        x, z = c * x + s * z, -s * x + c * z
        points[i, 0], points[i, 1], points[i, 2] = x, y, z
