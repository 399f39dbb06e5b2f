"""The encoder of PCL: FaceCycle's 16-layer network with a face and a pose branch, as a timm model.

METHOD section 1; "Pose-disentangled Contrastive Learning for Self-supervised Facial Representation"
(Liu et al., CVPR 2023, arXiv 2211.13490).
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import create_classifier, get_device_dtype
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn

from facepcl.models.branches import SLOPE, BranchOutputs, init_convs, leave_to_forward_branches
from facepcl.models.remap import rename_original_keys
from facepcl.models.weights import cfg_rows, check_pretrained, fit_state_dict

__all__ = ["PclFaceCycle"]


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, **dd: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, **dd)


class ChannelAttention(nn.Module):
    """Y = L(X + S G), S = phi(X) T', T = softmax over positions of theta(X), G = softmax over channels of
    g(X); X is `[B, C, H, W]`.

    Rows of T sum to 1, so S = phi(X T'): the phi convolution shrinks from H W to C positions (METHOD 1).
    """

    def __init__(self, channels: int, **dd: Any):
        super().__init__()
        self.g = conv(channels, channels, 1, **dd)
        self.theta = conv(channels, channels, 1, **dd)
        self.phi = conv(channels, channels, 1, **dd)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # [B, N, C]: how channels_last lies, so nothing is copied; a tenth faster than [B, C, N] there
        t = _positions_first(self.theta(x)).softmax(1)
        g = _positions_first(self.g(x)).softmax(2)
        s = _positions_first(x).transpose(1, 2) @ t  # [B, C, C]
        # no unsqueeze: OpenCV 4's reader of ONNX files gets it wrong for two images and crashes
        s = self.phi(s.view(-1, x.shape[1], x.shape[1], 1)).flatten(2)
        return self.act(x + (g @ s.transpose(1, 2)).transpose(1, 2).view_as(x))


def _positions_first(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


class ResidualBlock(nn.Module):
    """y = L(x + conv(L(conv(x)))), `[B, C, H, W]`, no normalisation."""

    def __init__(self, channels: int, **dd: Any):
        super().__init__()
        self.conv1 = conv(channels, channels, **dd)
        self.conv2 = conv(channels, channels, **dd)
        self.act1 = nn.LeakyReLU(SLOPE)  # one for each use: DeepLift and other hooks note what they saw
        self.act2 = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act2(x + self.conv2(self.act1(self.conv1(x))))


def two_convs(c_in: int, c_mid: int, c_out: int, stride: int = 1, **dd: Any) -> nn.Sequential:
    return nn.Sequential(
        conv(c_in, c_mid, stride=stride, **dd),
        nn.LeakyReLU(SLOPE),
        conv(c_mid, c_out, **dd),
        nn.LeakyReLU(SLOPE),
    )


def attention_stage(c_in: int, c_out: int, stride: int = 1, **dd: Any) -> nn.Sequential:
    return nn.Sequential(
        conv(c_in, c_out, stride=stride, **dd),
        nn.LeakyReLU(SLOPE),
        ChannelAttention(c_out, **dd),
        conv(c_out, c_out, **dd),
        nn.LeakyReLU(SLOPE),
    )


class PclFaceCycle(BranchOutputs, nn.Module):
    """PCL's encoder, `[B, in_chans, H, W]` of at least 32 px -> trunk map `[B, 128, ceil(H/16), ceil(W/16)]`.

    `branches=True` adds the face and the pose branch; `forward` is the trunk with timm's head either way.
    """

    without_branches = "this model has no branches; make it with branches=True"

    def __init__(
        self,
        num_classes: int = 0,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        branches: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        # The names are those of the original's state dict; timm's feature extraction wants them in this
        # order.
        self.conv1 = nn.Sequential(
            conv(in_chans, 64, 7, 2, **dd), nn.LeakyReLU(SLOPE), conv(64, 64, **dd), nn.LeakyReLU(SLOPE)
        )
        self.layer1 = attention_stage(64, 64, **dd)
        self.layer2_1 = attention_stage(64, 128, stride=2, **dd)
        self.resblock1 = ResidualBlock(128, **dd)
        self.resblock2 = ResidualBlock(128, **dd)
        self.layer2_2 = two_convs(128, 128, 128, stride=2, **dd)
        self.layer3_1 = two_convs(128, 256, 128, stride=2, **dd)
        self.feature_info = [
            {"num_chs": 64, "reduction": 2, "module": "layer1"},
            {"num_chs": 128, "reduction": 4, "module": "resblock2"},
            {"num_chs": 128, "reduction": 8, "module": "layer2_2"},
            {"num_chs": 128, "reduction": 16, "module": "layer3_1"},
        ]
        self.num_features = 128
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, **dd
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.face: nn.Sequential | None = two_convs(128, 128, 128, **dd) if branches else None
        self.pose: nn.Sequential | None = two_convs(128, 128, 128, **dd) if branches else None
        leave_to_forward_branches(self)
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Reinitialise all parameters; also for a model made on the meta device, after `to_empty`."""
        init_convs(self)
        if isinstance(self.fc, nn.Linear):
            self.fc.reset_parameters()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that order the parameters by depth, for layer-wise decay and freezing."""
        stages = [
            r"^conv1",
            r"^layer1",
            r"^layer2_1",
            r"^resblock1",
            r"^resblock2",
            r"^layer2_2",
            r"^layer3_1",
        ]
        if coarse:
            stages = [r"^(?:conv1|layer1)", r"^(?:layer2_1|resblock)", r"^layer2_2", r"^layer3_1"]
        blocks = [(pattern, (depth,)) for depth, pattern in enumerate(stages[1:])]
        return {"stem": stages[0], "blocks": [*blocks, (r"^(?:face|pose)\.", (len(blocks),))]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in the trunk while training."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """The classifier, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the model a new classifier; the pooling is kept unless `global_pool` names another."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, **get_device_dtype(self)
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Maps at the levels of `feature_info` that `indices` names, after the trunk's map unless
        `intermediates_only`; `norm` has no effect (there is none)."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}: the maps of this network are 'NCHW'")
        take, last = feature_take_indices(len(self.feature_info), indices)
        levels = (
            (self.conv1, self.layer1),
            (self.layer2_1, self.resblock1, self.resblock2),
            (self.layer2_2,),
            (self.layer3_1,),
        )
        maps = []
        for level, blocks in enumerate(levels[: last + 1] if stop_early else levels):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(blocks, x)
            else:
                for block in blocks:
                    x = block(x)
            if level in take:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what lies behind the last level of `indices`, and the branches; return the levels kept."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        stages = (("layer2_1", "resblock1", "resblock2"), ("layer2_2",), ("layer3_1",))
        for name in [name for names in stages[last:] for name in names]:
            setattr(self, name, nn.Sequential())
        self.face = self.pose = None
        self.num_features = cast(int, self.feature_info[last]["num_chs"])
        if prune_head or last < len(self.feature_info) - 1:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """The trunk's map `[B, 128, ceil(H/16), ceil(W/16)]`: PCL's shared features."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return self.forward_intermediates(x)[0]
        x = self.layer1(self.conv1(x))
        x = self.resblock2(self.resblock1(self.layer2_1(x)))
        return self.layer3_1(self.layer2_2(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pooling, dropout and classifier; without the classifier if `pre_logits`."""
        x = self.global_pool(x)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[B, num_classes]`, or pooled features `[B, 128]` without a classifier."""
        return self.forward_head(self.forward_features(x))

    def shared_code(self, maps: torch.Tensor) -> torch.Tensor:
        """The trunk's map `[B, 128, H, W]` as a code: flattened."""
        return maps.flatten(1)


def checkpoint_filter_fn(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights of ours or of the original under our names, checked whole against the model."""
    return fit_state_dict(rename_original_keys(state_dict), model)


default_cfgs = generate_default_cfgs(
    cfg_rows("pcl_facecycle", input_size=(3, 64, 64), pool_size=(4, 4), first_conv="conv1.0")
)


@register_model
def pcl_facecycle(pretrained: bool = False, branches: bool = False, **kwargs: Any) -> PclFaceCycle:
    """PCL's 16-layer encoder for 64 px faces; `branches=True` adds the face and the pose branch."""
    check_pretrained("pcl_facecycle", pretrained, kwargs)
    features = {"out_indices": (0, 1, 2, 3), **kwargs.pop("feature_cfg", {})}
    return build_model_with_cfg(
        PclFaceCycle,
        "pcl_facecycle",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=features,
        branches=branches and not kwargs.get("features_only", False),
        **kwargs,
    )
