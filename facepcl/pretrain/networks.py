"""The networks that a method trains and the loss of each of its sub-steps (METHOD 4.1 to 4.3, 10 and 12).

Where several processes train, each gives its share in the loss of the whole batch, that of its own samples.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from facepcl.errors import OptionError, WeightsError, first_cause
from facepcl.models.branches import full_precision, is_branch
from facepcl.models.decoder import CODE, CODE_SIDE, Decoder, ProjectionHead, resize_maps
from facepcl.models.factory import create_decoder, create_model, find_decoder
from facepcl.models.io import read_shapes
from facepcl.pretrain import distributed, losses
from facepcl.pretrain.config import METHODS
from facepcl.pretrain.label_heads import LabelHeads, Outputs, label_losses

TARGET_SIZE = 64  # pixels of what the decoder draws
BRANCH_CHANNELS = CODE // CODE_SIDE**2


class Networks(nn.Module):
    """Everything that is trained: the encoder, the decoder and the heads, as far as `sub_steps` use them.

    The encoder has its branches only where a sub-step trains them.
    """

    def __init__(self, model: str, label_outputs: Outputs, sub_steps: Sequence[str] = METHODS["pcl"]):
        super().__init__()
        self.encoder: Any = create_model(model, pretrained=False, num_classes=0)
        if "disentangle" in sub_steps:
            self.decoder = Decoder()
        elif "labels" not in sub_steps:
            # Made and dropped: so the trunk of a seed starts the same under every method.
            for branch in ("face", "pose"):
                setattr(self.encoder, branch, None)
        if "face" in sub_steps:
            self.face_head = ProjectionHead()
        if "pose" in sub_steps:
            self.pose_head = ProjectionHead()
        if "shared" in sub_steps:
            self.shared_head = ProjectionHead(self._shared_width())
        if label_outputs:
            trunk: Any = self.encoder.num_features
            channels = {"face": BRANCH_CHANNELS, "pose": BRANCH_CHANNELS, "shared": trunk}
            self.label_heads = LabelHeads(label_outputs, channels, self._shared_width())

    @property
    def own_size(self) -> int:
        """The side in pixels of views whose maps need no resizing for decoder and heads (METHOD 8 and 11)."""
        return CODE_SIDE * self.encoder.feature_info[-1]["reduction"]

    def start_from(self, init: str) -> None:
        """Take the encoder's weights, and the decoder's where there is one, from `init`: a name of
        `create_model` or a `.safetensors` file.

        Branches that `init` lacks keep their random start. Raises OptionError if it is another model, and
        what `create_model` raises.
        """
        model = self.encoder.pretrained_cfg["architecture"]
        is_file = init.endswith(".safetensors")
        if is_file:
            branches = any(map(is_branch, read_shapes(init)))
            source: Any = create_model(model, init, branches=branches, num_classes=0)
        else:
            source = create_model(init, True, num_classes=0)
        if (found := source.pretrained_cfg["architecture"]) != model:
            raise OptionError(f"--init {init} is a {found}, and --model is {model}")
        missing, _ = self.encoder.load_state_dict(source.state_dict(), strict=False)
        if unexplained := [key for key in missing if not is_branch(key)]:
            raise WeightsError(f"--init {init} has no {unexplained[0]}")
        if hasattr(self, "decoder") and not is_file and find_decoder(init):
            self.decoder.load_state_dict(create_decoder(init).state_dict())

    @contextmanager
    def compiled(self, wanted: bool = True) -> Iterator[None]:
        """Within it the encoder's trunk runs compiled, if that is `wanted`: anew for each shape of its input;
        weights and their names stay as they are. Raises OptionError where nothing compiles."""
        if not wanted:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException  # a second that only this needs

        self.encoder.forward_features = self._compiled_trunk  # the trunk is called by this name
        try:
            yield
        except TorchDynamoException as error:
            raise OptionError(f"--compile does not work here ({first_cause(error)}); leave it out") from error
        finally:
            del self.encoder.forward_features

    @contextmanager
    def observed(self, wanted: bool = True) -> Iterator[list[torch.Tensor]]:
        """Within it the trunk's maps are kept in the list that this gives, if that is `wanted`, the newest
        last."""
        maps: list[torch.Tensor] = []
        if not wanted:
            yield maps
            return
        own = vars(self.encoder).get("forward_features")  # that of `compiled`
        trunk = self.encoder.forward_features

        def keep(images: torch.Tensor) -> torch.Tensor:
            maps.append(trunk(images))
            return maps[-1]

        self.encoder.forward_features = keep
        try:
            yield maps
        finally:
            del self.encoder.forward_features
            if own is not None:
                self.encoder.forward_features = own

    @cached_property
    def _compiled_trunk(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return torch.compile(self.encoder.forward_features, dynamic=False)

    def code(self, branch: str, images: torch.Tensor) -> torch.Tensor:
        """The `face` or `pose` code of `[B, 3, H, W]`, `[B, 2048]`; the other branch is not computed."""
        return to_code(self.encoder.get_submodule(branch)(self.encoder.forward_features(images)))

    def shared_code(self, images: torch.Tensor) -> torch.Tensor:
        """The model's own shared code of `[B, 3, H, W]`, `[B, D]`, at a side of 4 as the other two."""
        maps = resize_maps(self.encoder.forward_features(images))
        return full_precision(self.encoder.shared_code(maps))

    def _shared_width(self) -> int:
        maps = torch.zeros(1, self.encoder.num_features, CODE_SIDE, CODE_SIDE)
        return self.encoder.shared_code(maps).shape[1]


def to_code(maps: torch.Tensor) -> torch.Tensor:
    """A branch map `[B, 128, h, w]` as the `[B, 2048]` that decoder and heads take (METHOD 11)."""
    return full_precision(resize_maps(maps).flatten(1))


class Disentangled(NamedTuple):
    """The result of the first sub-step: its two losses and the four decoded images `[B, 3, 64, 64]`."""

    reconstruction: torch.Tensor
    orthogonality: torch.Tensor
    decoded: tuple[torch.Tensor, ...]


def disentangle(
    nets: Networks, noisy: torch.Tensor, image: torch.Tensor, mirror: torch.Tensor
) -> Disentangled:
    """Sub-step 1 (METHOD 4.1): face codes are the same for image and mirror, pose codes tell the side.

    `noisy` `[2B, 3, S, S]`: B noisy images, then their B noisy mirrors; `image` and `mirror` `[B, 3, 64,
    64]`: what the decoder is to draw.
    """
    # image and mirror in one pass, so that a batch norm cannot tell them apart
    maps = nets.encoder.forward_branches(noisy)
    face, face_mirror = to_code(maps.face).chunk(2)
    pose, pose_mirror = to_code(maps.pose).chunk(2)
    # Four calls, in this order: each has batch statistics of its own, and the last ones stay.
    pairs = ((face, pose_mirror), (face_mirror, pose), (face, pose), (face_mirror, pose_mirror))
    decoded = tuple(nets.decoder(F.normalize(a + b)) for a, b in pairs)
    codes = distributed.gather(torch.cat([face, pose, face_mirror, pose_mirror], 1))
    face, pose, face_mirror, pose_mirror = codes.chunk(4, 1)
    part = distributed.part(len(codes))
    return Disentangled(
        losses.reconstruction(decoded, (mirror, image, image, mirror)) / distributed.count(),
        losses.orthogonality(face, pose, part) + losses.orthogonality(face_mirror, pose_mirror, part),
        decoded,
    )


def contrast_faces(
    nets: Networks, views: torch.Tensor, mask: torch.Tensor, permutation: torch.Tensor
) -> torch.Tensor:
    """Sub-step 2 (METHOD 4.2) for `views` `[2B, 3, S, S]`: two quadrant crops of each face."""
    features = distributed.gather(nets.face_head(nets.code("face", views)), copies=2)
    return losses.face_contrast(features, mask, permutation, distributed.part(len(features) // 2))


def contrast_poses(
    nets: Networks,
    positives: torch.Tensor,
    negatives: torch.Tensor,
    mask: torch.Tensor,
    permutation: torch.Tensor,
    layout: str,
) -> torch.Tensor:
    """Sub-step 3 (METHOD 4.3): `positives` `[2B, 3, S, S]` against mirrored `negatives` `[K B, 3, S, S]`,
    draw by draw.

    `layout` "blocks" cuts the draws into B blocks of K rows, as the original does, so that only one in B
    negatives is a mirror of the anchor itself; "own" gives each anchor its own mirrors (METHOD Q1).
    """
    batch = len(positives) // 2
    # one pass through the encoder, so that a batch norm cannot tell anchors from negatives
    codes = nets.code("pose", torch.cat([positives, negatives]))
    anchors = nets.pose_head(codes[: 2 * batch])
    mirrored = nets.pose_head(codes[2 * batch :])  # a call of its own: its own batch statistics (Q2)
    draws = len(mirrored) // batch
    if layout == "own":
        blocks = mirrored.unflatten(0, (draws, batch)).transpose(0, 1)
    else:
        rows = distributed.gather(mirrored, copies=draws)
        blocks = rows.unflatten(0, (-1, draws))[distributed.part(len(rows) // draws)]
    return losses.pose_contrast(anchors, blocks, mask, permutation) / distributed.count()


def contrast_shared(nets: Networks, views: torch.Tensor) -> torch.Tensor:
    """SimCLR's only sub-step (METHOD 12) for `views` `[2B, 3, S, S]`: two quadrant crops of each face."""
    features = distributed.gather(nets.shared_head(nets.shared_code(views)), copies=2)
    return losses.nt_xent(features, distributed.part(len(features) // 2))


def predict_labels(
    nets: Networks, views: torch.Tensor, targets: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The step of `--method labels` (METHOD 10): unweighted loss of each label of `views` `[B, 3, S, S]`;
    `targets` are those of all processes' views."""
    maps = nets.encoder.forward_branches(views)
    predictions = nets.label_heads(maps)
    if "identity" in predictions:
        predictions["identity"] = distributed.gather(predictions["identity"])
    return label_losses(predictions, targets, distributed.part(len(views) * distributed.count()))
