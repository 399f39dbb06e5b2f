"""ResNets of timm with a face and a pose branch (METHOD 8): the trunk is the stock network, key by key."""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from facepcl.models.branches import BranchOutputs, init_convs, leave_to_forward_branches, make_branch
from facepcl.models.weights import cfg_rows, check_pretrained, fit_state_dict

__all__ = ["PclResNet"]


class PclResNet(BranchOutputs, ResNet):
    """timm's ResNet with `face` and `pose` branches behind its last stage; without them it is timm's own
    class."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)  # refuses what it does not know
        dd = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        # Registered last, so that features_only, which walks the children up to its last tap, never meets
        # them.
        self.face: nn.Sequential | None = make_branch(self.num_features, **dd)
        self.pose: nn.Sequential | None = make_branch(self.num_features, **dd)
        leave_to_forward_branches(self)

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Reinitialise all parameters, also after `to_empty` (timm's leaves norms and classifier as they
        are)."""
        for layer in self.modules():
            if isinstance(layer, (nn.BatchNorm2d, nn.Linear)):
                layer.reset_parameters()
        super().init_weights(zero_init_last=zero_init_last)
        for name in ("face", "pose"):  # not there yet when ResNet.__init__ calls this
            branch = getattr(self, name, None)
            if branch is not None:
                init_convs(branch)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's depth groups of the trunk; the branches come after its last stage."""
        block = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1|bn1|maxpool", "blocks": [(block, None), (r"^(?:face|pose)\.", (5,))]}

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what lies behind the last level of `indices`, and the branches; return the levels kept."""
        self.face = self.pose = None
        return super().prune_intermediate_layers(indices, prune_norm, prune_head)


_BASE: dict[str, Any] = {"input_size": (3, 128, 128), "pool_size": (4, 4), "first_conv": "conv1"}
default_cfgs = generate_default_cfgs(
    {**cfg_rows("pcl_resnet18", **_BASE), **cfg_rows("pcl_resnet50", **_BASE)}
)


def _create(variant: str, pretrained: bool, branches: bool, **kwargs: Any) -> ResNet:
    check_pretrained(variant, pretrained, kwargs)
    return build_model_with_cfg(
        PclResNet if branches and not kwargs.get("features_only", False) else ResNet,
        variant,
        pretrained,
        pretrained_filter_fn=fit_state_dict,
        **kwargs,
    )


@register_model
def pcl_resnet18(pretrained: bool = False, branches: bool = False, **kwargs: Any) -> ResNet:
    """timm's ResNet-18 for 128 px faces; `branches=True` adds the face and the pose branch."""
    args = {"block": BasicBlock, "layers": (2, 2, 2, 2), **kwargs}
    return _create("pcl_resnet18", pretrained, branches, **args)


@register_model
def pcl_resnet50(pretrained: bool = False, branches: bool = False, **kwargs: Any) -> ResNet:
    """timm's ResNet-50 for 128 px faces; `branches=True` adds the face and the pose branch."""
    args = {"block": Bottleneck, "layers": (3, 4, 6, 3), **kwargs}
    return _create("pcl_resnet50", pretrained, branches, **args)
