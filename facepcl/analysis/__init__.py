"""What faces show: head pose, expression, action units, and who is who in a video."""

from facepcl.analysis.analyze_photos import analyze
from facepcl.analysis.analyzer import AnalyzedFace, FaceAnalyzer

__all__ = ["AnalyzedFace", "FaceAnalyzer", "analyze"]
