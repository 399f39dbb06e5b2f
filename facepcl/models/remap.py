"""Key names of the original's checkpoints (Liu et al., CVPR 2023) and of ours."""

from collections.abc import Mapping

import torch

State = dict[str, torch.Tensor]


def rename_original_keys(state_dict: Mapping[str, torch.Tensor]) -> State:
    """An encoder's tensors with the original's two branch names replaced by `face.` and `pose.`."""
    names = {"layer3_2_exp.": "face.", "layer3_2_pose.": "pose."}
    renamed = {}
    for key, value in state_dict.items():
        old = next((name for name in names if key.startswith(name)), "")
        renamed[names.get(old, "") + key[len(old) :]] = value
    return renamed
