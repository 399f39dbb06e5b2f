"""Photos to aligned crops of their faces: `facepcl.align`."""

from facepcl.alignment.align_photos import AlignSummary, align

__all__ = ["AlignSummary", "align"]
