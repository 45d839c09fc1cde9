"""What a person sees of runs: tables, figures, report, dashboard, spectra of files."""

FORMATS = ("pdf", "png", "svg")
"""What a figure's file can be."""
