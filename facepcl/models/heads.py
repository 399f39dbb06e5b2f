"""Linear heads that read labels and identity from the maps of an encoder (docs/METHOD.md, section 10)."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from facepcl.errors import WeightsError
from facepcl.models.branches import Branches, full_precision
from facepcl.models.decoder import resize_maps

FORMAT_VERSION = 1  # of config.json's "heads"
WIDEST = 1 << 14  # outputs of a head

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "clamp": lambda x: x.clamp(0, 1),
    "softmax": lambda x: x.softmax(1),
    # what F.normalize computes, whose expand_as OpenCV's classic engine cannot read for several images
    "unit": lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(1e-12),
}


@dataclass(frozen=True)
class HeadSpec:
    """What a head reads and what comes out of it.

    Attributes:
        input: The map it reads: `shared`, `face` or `pose`.
        side: The map is resized to `side` x `side` and flattened.
        activation: What follows the linear layer: `none`, `clamp` (to 0..1), `softmax` or `unit` (length 1).
        outputs: A name for each output, or their number where they have no names.
    """

    input: str
    side: int
    activation: str
    outputs: tuple[str, ...] | int

    @property
    def width(self) -> int:
        """The number of outputs."""
        return self.outputs if isinstance(self.outputs, int) else len(self.outputs)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs; empty where they have none."""
        return () if isinstance(self.outputs, int) else self.outputs


class Heads(nn.ModuleDict):
    """Predictions from the maps of an encoder with branches: a linear layer for each head, by its name.

    Args:
        specs: What each head reads and gives, by the head's name.
        inputs: How many numbers each head reads, `C * side * side`.

    Example:
        >>> model = facepcl.create_model("local-dir:runs/first/encoder", pretrained=True).eval()
        >>> heads = facepcl.create_heads("local-dir:runs/first/encoder")
        >>> outputs = heads(model.forward_branches(images))
        >>> outputs["pose"]  # [B, 3], degrees, in the order of heads.specs["pose"].names
    """

    def __init__(self, specs: Mapping[str, HeadSpec], inputs: Mapping[str, int]):
        super().__init__({name: nn.Linear(inputs[name], spec.width) for name, spec in specs.items()})
        self.specs = dict(specs)

    def forward(self, maps: Branches) -> dict[str, torch.Tensor]:
        """Predict from maps `[B, C, H, W]` of `forward_branches`.

        Returns:
            A tensor `[B, out]` for each head: `pose` in degrees, `expression` as probabilities (not
            calibrated), `au` as intensities in 0..1, `identity` as vectors of unit length.
        """
        return {name: self.predict(name, maps) for name in self.specs}

    def predict(self, name: str, maps: Branches) -> torch.Tensor:
        """What one head says, `[B, out]`; of `maps` it needs the one that the head reads."""
        spec, layer = self.specs[name], self.get_submodule(name)
        inputs = head_input(maps, spec).to(layer.get_parameter("weight").dtype)
        return ACTIVATIONS[spec.activation](layer(inputs))


def head_input(maps: Branches, spec: HeadSpec) -> torch.Tensor:
    """What a head reads, `[B, C * side * side]` in float32."""
    return full_precision(resize_maps(getattr(maps, spec.input), spec.side).flatten(1))


def describe_heads(specs: Mapping[str, HeadSpec]) -> dict[str, Any]:
    """`specs` as config.json has them."""
    return {"version": FORMAT_VERSION, **{name: asdict(spec) for name, spec in specs.items()}}


def read_specs(described: Mapping[str, Any], where: str) -> dict[str, HeadSpec]:
    """The heads that a config.json describes. Raises WeightsError if it cannot be."""
    if (version := described.get("version")) != FORMAT_VERSION:
        raise WeightsError(
            f"{where}: its heads have format {version!r:.20}, and this facepcl reads {FORMAT_VERSION}"
        )
    heads = {name: spec for name, spec in described.items() if name != "version"}
    return {name: _read_spec(spec, f"{where}: head {name!r:.40}") for name, spec in heads.items()}


def _read_spec(described: Any, where: str) -> HeadSpec:
    try:
        outputs = described["outputs"]
        spec = HeadSpec(
            described["input"],
            described["side"],
            described["activation"],
            outputs if isinstance(outputs, int) else tuple(map(str, outputs)),
        )
        known = spec.input in Branches._fields and spec.activation in ACTIVATIONS
    except (TypeError, KeyError) as error:
        raise WeightsError(f"{where} is not described by input, side, activation and outputs") from error
    if not known or type(spec.side) is not int or not 1 <= spec.side <= 16 or not 1 <= spec.width <= WIDEST:
        raise WeightsError(f"{where} is described by values that no head has: {described!r:.120}")
    return spec
