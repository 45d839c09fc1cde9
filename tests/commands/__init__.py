"""Tests of lowrank.commands."""
