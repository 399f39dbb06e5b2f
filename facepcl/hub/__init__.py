"""Weights travel: checkpoints of others in (`convert`), folders out to the Hugging Face Hub (`push`)."""

from facepcl.hub.bundled import push_bundled
from facepcl.hub.convert_checkpoint import convert
from facepcl.hub.push_folder import push

__all__ = ["convert", "push", "push_bundled"]
