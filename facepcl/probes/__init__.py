"""Linear probes of frozen features: `facepcl.probes.run("expression", "fer2013/", model="pcl_facecycle")`."""

from facepcl.probes.run_probe import TASKS, Result, run

__all__ = ["TASKS", "Result", "run"]
