"""Ranks in the trainers of others, each in a module of the package's name, which imports it."""
