"""Models that an embedder cannot use are refused in one sentence; wrapped ones are used."""

import numpy as np
import pytest
import timm
import torch

import facepcl
from facepcl.errors import OptionError

IMAGE = np.zeros((70, 70, 3), np.uint8)


def test_a_model_of_grey_images_is_refused():
    with pytest.raises(OptionError, match="pcl_facecycle takes no RGB images of 64 x 64 pixels"):
        facepcl.FaceEmbedder(timm.create_model("pcl_facecycle", in_chans=1))


def test_a_module_that_does_not_say_how_its_images_are_prepared_is_refused():
    class Plain(torch.nn.Conv2d):
        def forward_features(self, x):
            return self(x)

    with pytest.raises(OptionError, match="Plain has no pretrained_cfg"):
        facepcl.FaceEmbedder(Plain(3, 8, 3))


def test_a_compiled_model_embeds_as_what_was_compiled():
    model = timm.create_model("pcl_facecycle")
    wanted = facepcl.FaceEmbedder(model, dtype="float32")([IMAGE])
    assert np.array_equal(facepcl.FaceEmbedder(torch.compile(model), dtype="float32")([IMAGE]), wanted)


@pytest.mark.parametrize("name", ["pcl_facecycle", "pcl_resnet18", "resnet18"])
def test_a_model_without_pooling_has_its_whole_map_as_its_code(name):
    model = timm.create_model(name, global_pool="", num_classes=0)
    embedder = facepcl.FaceEmbedder(model, dtype="float32")
    assert embedder([IMAGE]).shape == (1, embedder.meta["dimension"])
