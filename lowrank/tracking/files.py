"""Files of a W&B run that are not the client's own: the record, pictures, packages, a diff."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowrank.runs.format import RECORD_NAME

if TYPE_CHECKING:
    import wandb
    from matplotlib.figure import Figure

FIGURE_DPI = 150
"""Dots per inch of figures in W&B: sharp at the width of a panel, about 100 kB."""


def send_record(run: wandb.Run, record: Path) -> None:
    """Adds a run record to the files of a W&B run, where `lowrank.load_run` finds it.

    Args:
        run: Of this process, online or offline.
        record: The record, closed.
    """
    save(run, RECORD_NAME, lambda copy: shutil.copyfile(record, copy))


def save(run: wandb.Run, name: str, write: Callable[[Path], object]) -> None:
    """Adds a file to those of a run.

    Args:
        run: The run.
        name: Of the file.
        write: Writes it.
    """
    path = Path(run.settings.files_dir, name)
    write(path)
    run.save(path, base_path=path.parent, policy="now", glob=False)


def save_text(run: wandb.Run, name: str, text: str) -> None:
    """Saves a file that wandb saves too, but slowly, or only with the code and with its secrets.

    Args:
        run: The run.
        name: Of the file.
        text: What is in it.
    """
    save(run, name, lambda path: path.write_text(text, encoding="utf-8", newline=""))


@functools.cache
def requirements() -> str:
    """Returns the packages of this process, as pip lists them."""
    from wandb.util import working_set

    return "".join(f"{package.key}=={package.version}\n" for package in working_set())


def image(figure: Figure) -> wandb.Image:
    """Returns a figure as an image; wandb itself would want pyplot imported for that.

    Args:
        figure: The figure.
    """
    import wandb
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(FIGURE_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    # wandb writes the file: a PNG made here would be made twice.
    return wandb.Image(Image.fromarray(pixels).convert("RGB"))
