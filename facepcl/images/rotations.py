"""Head pose as angles and as rotation matrices, and conversion from the conventions of other data sets.

Ours (docs/DATASETS.md): degrees; yaw > 0 = the nose moves towards the image's right, pitch > 0 = up, roll > 0
= the head tilts clockwise in the image. R = Ry(yaw) Rx(-pitch) Rz(-roll), x right, y up, z to the camera.
"""

import numpy as np

# to axes of cameras (x right, y down, z away), and back
_FLIP = np.diag([1.0, -1.0, -1.0])


def rotation(pose: np.ndarray) -> np.ndarray:
    """The rotations `[N, 3, 3]` of yaw, pitch, roll in degrees `[N, 3]`: R maps head axes to image axes."""
    yaw, pitch, roll = np.asarray(pose, np.float64).reshape(-1, 3).T
    return _about(1, yaw) @ _about(0, -pitch) @ _about(2, -roll)


def angles(rotations: np.ndarray) -> np.ndarray:
    """Yaw, pitch, roll in degrees `[N, 3]` of rotations `[N, 3, 3]`; yaw and roll in -180..180, pitch in
    -90..90."""
    R = np.asarray(rotations, np.float64).reshape(-1, 3, 3)
    yaw = np.arctan2(R[:, 0, 2], R[:, 2, 2])
    pitch = np.arctan2(R[:, 1, 2], np.hypot(R[:, 1, 0], R[:, 1, 1]))
    roll = np.arctan2(-R[:, 1, 0], R[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))


def geodesic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The angle in degrees `[N]` between rotations `[N, 3, 3]`."""
    between = np.swapaxes(np.asarray(a, np.float64), -1, -2) @ np.asarray(b, np.float64)
    skew = between - np.swapaxes(between, -1, -2)
    sine = np.sqrt(skew[..., 2, 1] ** 2 + skew[..., 0, 2] ** 2 + skew[..., 1, 0] ** 2) / 2
    # arccos alone has no digits left near 0 and 180 degrees
    return np.degrees(np.arctan2(sine, (np.trace(between, axis1=-2, axis2=-1) - 1) / 2))


def from_pose_para(pitch_yaw_roll: np.ndarray) -> np.ndarray:
    """Our yaw, pitch, roll `[N, 3]` from pitch, yaw, roll of 300W-LP and AFLW2000 in degrees `[N, 3]`.

    Theirs are left-handed about x right, y up, z to the camera: R = Rx(-pitch) Ry(-yaw) Rz(-roll). So their
    yaw > 0 turns the nose to the image's left, and the rotations are in another order.
    """
    pitch, yaw, roll = np.asarray(pitch_yaw_roll, np.float64).reshape(-1, 3).T
    return angles(_about(0, -pitch) @ _about(1, -yaw) @ _about(2, -roll))


def to_pose_para(pose: np.ndarray) -> np.ndarray:
    """Pitch, yaw, roll of 300W-LP and AFLW2000 in degrees `[N, 3]` from ours `[N, 3]`: published tables are
    errors of these."""
    R = rotation(pose)
    pitch = np.arctan2(R[:, 1, 2], R[:, 2, 2])
    yaw = -np.arctan2(R[:, 0, 2], np.hypot(R[:, 0, 0], R[:, 0, 1]))
    roll = np.arctan2(R[:, 0, 1], R[:, 0, 0])
    return np.degrees(np.stack([pitch, yaw, roll], axis=1))


def from_camera(rotations: np.ndarray) -> np.ndarray:
    """Our yaw, pitch, roll `[N, 3]` from rotations `[N, 3, 3]` in camera axes (x right, y down, z away), for
    head and image alike, such as BIWI's."""
    return angles(_FLIP @ np.asarray(rotations, np.float64).reshape(-1, 3, 3) @ _FLIP)


def _about(axis: int, degrees: np.ndarray) -> np.ndarray:
    """Right-handed rotations `[N, 3, 3]` about one axis."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    R = np.zeros((len(degrees), 3, 3))
    radians = np.radians(degrees)
    R[:, axis, axis] = 1
    R[:, first, first] = R[:, second, second] = np.cos(radians)
    R[:, second, first], R[:, first, second] = np.sin(radians), -np.sin(radians)
    return R
