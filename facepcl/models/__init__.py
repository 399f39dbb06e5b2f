"""The networks. Importing this package registers the encoders with timm."""

from facepcl.models.branches import Branches
from facepcl.models.pcl_facecycle import PclFaceCycle
from facepcl.models.pcl_resnet import PclResNet

__all__ = ["Branches", "PclFaceCycle", "PclResNet"]
