"""The configuration of a run: one validated model, and the ways to give it."""

from lowrank.config.settings import Config
from lowrank.config.sources import Given, allowed, combine, differences, load, of_stored, replace

__all__ = ["Config", "Given", "allowed", "combine", "differences", "load", "of_stored", "replace"]
