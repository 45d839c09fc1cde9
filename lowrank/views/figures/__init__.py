"""Figures: tables in, matplotlib figures out, and the command that draws them from records."""

from lowrank.views.figures.one_run import RankTable, final_figures, rank_curves, rank_heatmap
from lowrank.views.figures.shades import SMALL
from lowrank.views.figures.spectrum import spectrum_over_time

__all__ = [
    "SMALL",
    "RankTable",
    "final_figures",
    "rank_curves",
    "rank_heatmap",
    "spectrum_over_time",
]
