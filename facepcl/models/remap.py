"""Key names of the original's checkpoints (Liu et al., CVPR 2023) and of ours."""

from collections.abc import Mapping

import torch

State = dict[str, torch.Tensor]
NAMES = {"layer3_2_exp": "face", "layer3_2_pose": "pose"}


def rename_original_keys(state_dict: Mapping[str, torch.Tensor]) -> State:
    """An encoder's tensors with the original's two branch names replaced by `face.` and `pose.`."""
    parts = ((key.partition("."), value) for key, value in state_dict.items())
    return {NAMES.get(first, first) + dot + rest: value for (first, dot, rest), value in parts}
