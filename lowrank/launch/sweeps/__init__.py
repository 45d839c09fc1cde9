"""Sweeps without a server: Optuna holds the points, warm workers run them."""
