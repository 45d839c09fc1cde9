"""Run records as one HTML file that works offline from disk."""

MOST_SECTIONS = 20
"""Runs that a report shows layer by layer."""
