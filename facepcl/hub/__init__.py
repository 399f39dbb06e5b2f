"""Weights travel: checkpoints of others in (`convert`), folders out to the Hugging Face Hub (`push`)."""

from facepcl.hub.conversion import convert

__all__ = ["convert"]
