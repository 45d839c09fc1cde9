"""Tests of lowrank.launch.agents."""
