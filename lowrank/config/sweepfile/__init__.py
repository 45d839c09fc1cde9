"""Sweep files: read, checked, and their points."""

from lowrank.config.sweepfile.file import Metric, SweepFile, is_sweep_file, load_sweep_file
from lowrank.config.sweepfile.parameters import COUPLED, Distribution, Fixed, Parameter, Values

__all__ = [
    "COUPLED",
    "Distribution",
    "Fixed",
    "Metric",
    "Parameter",
    "SweepFile",
    "Values",
    "is_sweep_file",
    "load_sweep_file",
]
