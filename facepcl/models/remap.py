"""Key names of the original's checkpoints (Liu et al., CVPR 2023) and of ours."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

State = dict[str, torch.Tensor]


class TrainingState(NamedTuple):
    """The four parts of a training checkpoint, under the names of our networks."""

    encoder: State
    face_head: State
    pose_head: State
    decoder: State


def rename_original_keys(state_dict: Mapping[str, torch.Tensor]) -> State:
    """An encoder's tensors with the original's two branch names replaced by `face.` and `pose.`."""
    names = {"layer3_2_exp.": "face.", "layer3_2_pose.": "pose."}
    renamed = {}
    for key, value in state_dict.items():
        old = next((name for name in names if key.startswith(name)), "")
        renamed[names.get(old, "") + key[len(old) :]] = value
    return renamed


def split_original(state_dict: Mapping[str, torch.Tensor]) -> TrainingState:
    """The parts of an original training checkpoint, with or without DataParallel's `module.`."""
    plain = {key.removeprefix("module."): value for key, value in state_dict.items()}

    def part(prefix: str) -> State:
        return {key[len(prefix) :]: value for key, value in plain.items() if key.startswith(prefix)}

    encoder = rename_original_keys(part("encoder."))
    return TrainingState(encoder, part("exp_fc."), part("pose_fc."), part("decoder."))
