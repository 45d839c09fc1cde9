"""Figures: tables in, matplotlib figures out, and the command that draws them from records."""

from lowrank.figures.one_run import (
    RankTable,
    final_figures,
    rank_curves,
    rank_heatmap,
)
from lowrank.figures.shades import SMALL
from lowrank.figures.spectrum import spectrum_over_time

__all__ = [
    "SMALL",
    "RankTable",
    "final_figures",
    "rank_curves",
    "rank_heatmap",
    "spectrum_over_time",
]
