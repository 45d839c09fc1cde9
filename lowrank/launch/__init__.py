"""Many trainings, or one again: sweeps, agents, reruns, slots."""
