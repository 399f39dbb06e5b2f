"""Losses of PCL, SimCLR and of labels, in closed form (docs/METHOD.md, sections 4, 10, 12 and 14)."""

from facepcl.pretrain.losses import (
    face_contrast,
    face_contrast_logits,
    mixing,
    nt_xent,
    orthogonality,
    pose_contrast,
    pose_contrast_logits,
    reconstruction,
    relative_pose,
    supervised_contrast,
)

__all__ = [
    "face_contrast",
    "face_contrast_logits",
    "mixing",
    "nt_xent",
    "orthogonality",
    "pose_contrast",
    "pose_contrast_logits",
    "reconstruction",
    "relative_pose",
    "supervised_contrast",
]
