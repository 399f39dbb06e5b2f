"""Share weights: convert third-party checkpoints (`convert`), publish folders on the Hub (`push`)."""

from facepcl.hub.convert_checkpoint import convert
from facepcl.hub.push_folder import push

__all__ = ["convert", "push"]
