"""Tests of lowrank.agents."""
