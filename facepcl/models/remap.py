"""Key names of the original's checkpoints (Liu et al., CVPR 2023) and of ours."""

import re
from collections.abc import Mapping

import torch

State = dict[str, torch.Tensor]


def rename_original_keys(state_dict: Mapping[str, torch.Tensor]) -> State:
    """An encoder's tensors with the original's two branch names replaced by `face.` and `pose.`."""
    return {
        re.sub("^layer3_2_pose[.]", "pose.", re.sub("^layer3_2_exp[.]", "face.", key)): value
        for key, value in state_dict.items()
    }
