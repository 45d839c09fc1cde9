"""W&B's side of one run."""
