"""Tests of lowrank.data."""
