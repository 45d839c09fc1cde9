"""Learning: steps, schedules, the loop of a run."""
