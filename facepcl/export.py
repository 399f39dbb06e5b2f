"""Encoders as one file that runs without facepcl: `facepcl.export.run("pcl_facecycle", "face.onnx")`."""

from facepcl.hub.export import run as run
