"""Any of timm's models with a feature map as an encoder with a face and a pose branch."""

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

from facepcl.errors import OptionError, first_cause
from facepcl.models.branches import BranchOutputs, leave_to_forward_branches, make_branch

UNIT_RANGE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # of images in [0, 1], as they are


class BranchedModel(BranchOutputs, nn.Module):
    """A model of timm, the `trunk`, with `face` and `pose` branches behind its last feature map.

    Args:
        trunk: A model that `timm.create_model` made. Tokens of a transformer are arranged as a map, without
            those in front of them.

    Raises:
        OptionError: The trunk has no feature map.
    """

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk: Any = trunk
        dd = _placement(trunk)
        self.face: nn.Sequential | None = make_branch(self.num_features, **dd)
        self.pose: nn.Sequential | None = make_branch(self.num_features, **dd)
        leave_to_forward_branches(self)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's description of the trunk."""
        return self.trunk.pretrained_cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, cfg: dict[str, Any]) -> None:
        self.trunk.pretrained_cfg = cfg

    @property
    def num_features(self) -> int:
        """The channels of the trunk's map."""
        return self.trunk.num_features

    @property
    def feature_info(self) -> Any:
        """timm's list of the trunk's stages."""
        return self.trunk.feature_info

    @property
    def num_classes(self) -> int:
        """The classes of the trunk's classifier."""
        return self.trunk.num_classes

    def get_classifier(self) -> nn.Module:
        """The trunk's classifier."""
        return self.trunk.get_classifier()

    def reset_classifier(self, *args: Any, **options: Any) -> None:
        """Give the trunk a new classifier, by the arguments of its own method."""
        self.trunk.reset_classifier(*args, **options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training by computing the trunk's activations twice."""
        self.trunk.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """The parameters to which timm's optimizers apply no weight decay, such as position embeddings."""
        names = self.trunk.no_weight_decay() if hasattr(self.trunk, "no_weight_decay") else ()
        return {f"trunk.{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """The depth of a parameter, for layer-wise decay: timm's for the trunk; branches are as deep as its
        classifier."""
        depths = group_parameters(self.trunk, self.trunk.group_matcher(coarse), reverse=True)
        return lambda name: depths.get(name.removeprefix("trunk."), max(depths.values()))

    def forward_intermediates(self, *args: Any, **options: Any) -> Any:
        """The trunk's maps, by the arguments of its own method."""
        return self.trunk.forward_intermediates(*args, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What timm's model gives."""
        return self.trunk(x)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """The trunk's last feature map `[B, C, H, W]`."""
        return as_map(self.trunk, self.trunk.forward_features(x))


def as_map(trunk: Any, features: torch.Tensor) -> torch.Tensor:
    """The features of a timm model as `[B, C, H, W]`. Raises OptionError if they are no map."""
    if features.ndim == 3:  # tokens: class token and registers first
        tokens = features[:, getattr(trunk, "num_prefix_tokens", 0) :]
        side = round(tokens.shape[1] ** 0.5)
        if side * side == tokens.shape[1]:
            return tokens.transpose(1, 2).unflatten(2, (side, side))
    elif features.ndim == 4 and getattr(trunk, "output_fmt", "NCHW") == "NHWC":  # Swin and its kin
        return features.permute(0, 3, 1, 2)
    elif features.ndim == 4:
        return features
    raise OptionError(f"{type(trunk).__name__} has no feature map for branches: {list(features.shape)}")


def _placement(network: nn.Module) -> dict[str, Any]:
    """Where the parameters of a network are, and in which precision."""
    parameter = next(network.parameters())
    return {"device": parameter.device, "dtype": parameter.dtype}


def create_branched(name: str, pretrained: bool = False, **timm_options: Any) -> BranchedModel:
    """timm's model `name` with branches, whose weights are random; without `pretrained` for images in [0, 1].

    Raises OptionError if it has no feature map.
    """
    if not pretrained:
        overlay = UNIT_RANGE | (timm_options.pop("pretrained_cfg_overlay", None) or {})
        timm_options["pretrained_cfg_overlay"] = overlay
    trunk = timm.create_model(name, pretrained, **_for_any_size(name, timm_options))
    model = BranchedModel(trunk).train(trunk.training)
    channels, *sides = model.pretrained_cfg["input_size"]
    channels = timm_options.get("in_chans") or channels
    _check_map(model, torch.zeros(1, channels, *sides, **_placement(trunk)))
    return model


def _for_any_size(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options by which a vision transformer takes images of several sizes, as views have them."""
    with torch.device("meta"):
        model = timm.create_model(name)
    return {"dynamic_img_size": True, **options} if hasattr(model, "dynamic_img_size") else dict(options)


@torch.no_grad()
def check_input(model: Any, name: str, images: torch.Tensor) -> torch.Tensor:
    """The features of `images` `[B, 3, H, W]`. Raises OptionError if the trunk of `model` does not accept
    them."""
    training = model.training
    try:
        return model.eval().forward_features(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"{name} does not accept RGB images of {images.shape[2]} x {images.shape[3]} pixels in "
            f"{str(images.dtype).removeprefix('torch.')} ({first_cause(error)})"
        ) from error
    finally:
        model.train(training)


def _check_map(model: BranchedModel, images: torch.Tensor) -> None:
    name, training = model.pretrained_cfg["architecture"], model.training
    try:
        with torch.no_grad():
            maps = model.eval().forward_branches(images).shared
    except OptionError:
        raise
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:  # features that are no tensor
        raise OptionError(f"{name} has no feature map for branches ({first_cause(error)})") from error
    finally:
        model.train(training)
    if maps.shape[2] == 1:
        raise OptionError(f"{name} has no feature map for branches, but one token: {list(maps.shape)}")
    if not model.feature_info:
        raise OptionError(f"{name} does not report the stride of its feature map")
