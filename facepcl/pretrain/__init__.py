"""Pretraining: `facepcl.pretrain.run(facepcl.pretrain.Config(data=("faces.tar",), out="runs/first"))`."""

from facepcl.pretrain.config import PRESETS, Config
from facepcl.pretrain.loop import dynamic_weights, run

__all__ = ["PRESETS", "Config", "dynamic_weights", "run"]
