"""Pictures of a run: W&B gets them while it goes on, and with its last epoch."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowrank.runs.reader import Run

USUAL = 10
"""Times that a run sends pictures, where nothing says how often."""

SHARE = 0.1
"""Of a run's time that drawing may take then, shared by the members of a pack."""

FIRST_SECONDS = 1.0
"""That the first drawing is taken to need: it loads matplotlib."""


class Pictures:
    """Says in which epochs a run is drawn while it goes on, and draws it.

    Args:
        every: ``figures_every``.
        epochs: Of the run.
        members: Of its pack.

    Example:
        >>> [epoch for epoch in range(9) if Pictures(3, epochs=8, members=1).are_due(epoch)]
        [3, 6]
    """

    def __init__(self, every: int | None, epochs: int, members: int) -> None:
        self._every = every or max(1, math.ceil(epochs / USUAL))
        self._share = None if every else SHARE / members
        self._began = time.monotonic()
        self._spent = FIRST_SECONDS

    def are_due(self, epoch: int) -> bool:
        """Returns whether the run is drawn in this epoch, although it is not its last.

        Args:
            epoch: Epochs trained.
        """
        if epoch == 0 or epoch % self._every:
            return False
        seconds = time.monotonic() - self._began
        return self._share is None or self._spent <= self._share * seconds

    def draw(self, run: Run) -> dict[str, Figure]:
        """Draws what W&B gets of a run so far.

        Args:
            run: Read from the record.

        Returns:
            Figures by their names in W&B.
        """
        started = time.monotonic()
        try:
            return pictures(run)
        finally:
            self._spent += time.monotonic() - started


def pictures(run: Run) -> dict[str, Figure]:
    """Draws what W&B gets of a run.

    Args:
        run: Read from the record.

    Returns:
        Figures by their names in W&B.
    """
    # Loaded only where something is drawn: matplotlib takes a good part of a short run's start.
    from lowrank.views.figures import final_figures

    return final_figures(run)
