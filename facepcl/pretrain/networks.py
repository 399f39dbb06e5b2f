"""The networks that a method trains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from facepcl.errors import OptionError, WeightsError, first_cause
from facepcl.images.face import ANGLES
from facepcl.models.branched import BranchedModel
from facepcl.models.branches import Branches, full_precision, is_branch
from facepcl.models.decoder import CODE, CODE_SIDE, Decoder, ProjectionHead, resize_maps
from facepcl.models.factory import create_decoder, create_model, find_decoder
from facepcl.models.io import read_shapes, size_cfg
from facepcl.models.weights import wrong_shape
from facepcl.pretrain.config import METHODS
from facepcl.pretrain.label_heads import LabelHead, LabelHeads, Outputs

TARGET_SIZE = 64  # side in pixels of the decoder's images
BRANCH_CHANNELS = CODE // CODE_SIDE**2
NORMALISATION = ("mean", "std")  # keys of timm's pretrained_cfg


class Networks(nn.Module):
    """The encoder, and the decoder and heads that `tasks` use.

    The encoder has branches only if a task trains them.
    """

    maps: torch.Tensor  # the last output of the trunk, for diagnostics

    def __init__(self, model: str, label_outputs: Outputs, tasks: Sequence[str] = METHODS["pcl"]):
        super().__init__()
        self.encoder: Any = create_model(model, pretrained=False, num_classes=0)
        if "disentangle" in tasks:
            self.decoder = Decoder()
        elif not {"labels", "relative"} & set(tasks):
            # created and dropped, so that the trunk has the same initialisation under every method
            for branch in ("face", "pose"):
                setattr(self.encoder, branch, None)
        if {"face", "relative"} & set(tasks):
            self.face_head = ProjectionHead()
        if "pose" in tasks:
            self.pose_head = ProjectionHead()
        if {"shared", "relative"} & set(tasks):
            self.shared_head = ProjectionHead(self._shared_width())
        if "relative" in tasks:
            self.turn_head = LabelHead(CODE, len(ANGLES))
        if label_outputs:
            trunk: Any = self.encoder.num_features
            channels = {"face": BRANCH_CHANNELS, "pose": BRANCH_CHANNELS, "shared": trunk}
            self.label_heads = LabelHeads(label_outputs, channels, self._shared_width())

    def _shared_width(self) -> int:
        maps = torch.zeros(1, self.encoder.num_features, CODE_SIDE, CODE_SIDE)
        return self.encoder.shared_code(maps).shape[1]

    @property
    def own_size(self) -> int:
        """The side in pixels of views whose maps are not resized for decoder and heads (METHOD 8 and 11), or
        the only one that the encoder takes."""
        size = CODE_SIDE * self.encoder.feature_info[-1]["reduction"]
        cfg = self.encoder.pretrained_cfg
        if cfg.get("fixed_input_size"):  # which many models of timm say that take other sizes as well
            try:
                self.check_sizes([size])
            except OptionError:
                return cfg["input_size"][1]
        return size

    def check_sizes(self, sizes: Iterable[int]) -> None:
        """Raises OptionError if the encoder does not accept views of these sides in pixels."""
        for size in sizes:
            size_cfg(self.encoder, size)

    def start_from(self, init: str, frozen_size: int = 0) -> None:
        """Load the encoder, how it wants images normalised, and the decoder if there is one, from `init`: a
        name for `create_model` or a `.safetensors` file.

        Branches that `init` lacks keep their random initialisation. Raises OptionError if it is another
        model or, with `--freeze`, lacks a branch or takes images of another side than `frozen_size`; and what
        `create_model` raises.
        """
        model = self.encoder.pretrained_cfg["architecture"]
        is_file = init.endswith(".safetensors")
        if is_file:
            branches = any(map(is_branch, read_shapes(init)))
            source: Any = create_model(model, init, branches=branches, num_classes=0)
        else:
            source = create_model(init, True, num_classes=0)
        if (architecture := source.pretrained_cfg["architecture"]) != model:
            raise OptionError(f"--init {init} is a {architecture}, but --model is {model}")
        state = source.state_dict()
        if isinstance(self.encoder, BranchedModel) and not isinstance(source, BranchedModel):
            state = {f"trunk.{key}": value for key, value in state.items()}  # it was saved without branches
        if wrong := wrong_shape(state, self.encoder.state_dict()):
            raise OptionError(f"--init {init} does not fit --model {model}: {wrong}")
        missing, _ = self.encoder.load_state_dict(state, strict=False)
        if unknown := [key for key in missing if not is_branch(key)]:
            raise WeightsError(f"--init {init} has no {unknown[0]}")
        if frozen_size:
            read = {spec.input for spec in self.label_heads.specs.values()}
            if lacking := read & {key.partition(".")[0] for key in missing}:
                raise OptionError(
                    f"--freeze trains heads alone, and --init {init} has no {min(lacking)} branch"
                )
            own_size = source.pretrained_cfg["input_size"][-1]
            if own_size != frozen_size and not is_file:
                raise OptionError(
                    f"--init {init} takes images of {own_size} pixels; with --freeze, add --size {own_size}"
                )
        if not is_file:
            self.encoder.pretrained_cfg |= {key: source.pretrained_cfg[key] for key in NORMALISATION}
        if hasattr(self, "decoder") and find_decoder(init):
            self.decoder.load_state_dict(create_decoder(init).state_dict())

    @contextmanager
    def compiled(self, enabled: bool) -> Iterator[None]:
        """Run the encoder's trunk compiled within this context, once per shape of its input, if `enabled`.

        Raises OptionError where compilation fails.
        """
        if not enabled:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        self.encoder.forward_features = self._compiled_trunk
        try:
            yield
        except TorchDynamoException as error:
            raise OptionError(f"--compile does not work here ({first_cause(error)}); leave it out") from error
        finally:
            del self.encoder.forward_features

    @cached_property
    def _compiled_trunk(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return torch.compile(self.encoder.forward_features, dynamic=False)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """The maps of the trunk, `[B, C, h, w]`."""
        self.maps = self.encoder.forward_features(network_input(self.encoder, images))
        return self.maps

    def branches(self, images: torch.Tensor) -> Branches:
        """The maps of the trunk and of both branches."""
        maps = self.trunk(images)
        return Branches(maps, self.encoder.face(maps), self.encoder.pose(maps))

    def code(self, branch: str, images: torch.Tensor) -> torch.Tensor:
        """The `face` or `pose` code `[B, 2048]`, without computing the other."""
        return to_code(self.encoder.get_submodule(branch)(self.trunk(images)))

    def shared_code(self, maps: torch.Tensor) -> torch.Tensor:
        """The model's own shared code `[B, D]` of the trunk's maps, from 4 x 4 as for the other two."""
        return full_precision(self.encoder.shared_code(resize_maps(maps)))


def network_input(encoder: Any, images: torch.Tensor) -> torch.Tensor:
    """Images `[B, 3, S, S]` in [0, 1] as the weights of `encoder` expect them."""
    mean, std = (encoder.pretrained_cfg[key] for key in NORMALISATION)
    if set(mean) == {0} and set(std) == {1}:
        return images
    return (images - images.new_tensor(mean).view(3, 1, 1)) / images.new_tensor(std).view(3, 1, 1)


def to_code(maps: torch.Tensor) -> torch.Tensor:
    """A branch map `[B, 128, h, w]` as the `[B, 2048]` that decoder and heads take (METHOD 11)."""
    return full_precision(resize_maps(maps).flatten(1))
