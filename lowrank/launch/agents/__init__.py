"""W&B agents, one for each slot of this machine: ``lowrank agent``."""
