"""Losses of PCL, SimCLR and of labels, in closed form (docs/METHOD.md, sections 4, 10, 12 and 14)."""

from facepcl.pretrain.losses import face_contrast as face_contrast
from facepcl.pretrain.losses import face_contrast_logits as face_contrast_logits
from facepcl.pretrain.losses import mixing as mixing
from facepcl.pretrain.losses import nt_xent as nt_xent
from facepcl.pretrain.losses import orthogonality as orthogonality
from facepcl.pretrain.losses import pose_contrast as pose_contrast
from facepcl.pretrain.losses import pose_contrast_logits as pose_contrast_logits
from facepcl.pretrain.losses import reconstruction as reconstruction
from facepcl.pretrain.losses import relative_pose as relative_pose
from facepcl.pretrain.losses import supervised_contrast as supervised_contrast
