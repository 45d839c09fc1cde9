"""A recorded run again, as a new run, compared with the original: ``lowrank rerun``."""
