"""Whether the texts of a figure can be read: none outside the picture, none over another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.text import Text

SLACK = 1.5
"""Pixels: an extent includes room for accents and descenders."""


def drawn_texts(monkeypatch: Any, draw: Callable[[], object]) -> list[Text]:
    """Returns the texts that drawing shows.

    Args:
        monkeypatch: Of the test.
        draw: Draws the figure.
    """
    texts: list[Text] = []
    original = Text.draw

    def spy(text: Text, renderer: Any) -> None:
        texts.append(text)
        original(text, renderer)

    monkeypatch.setattr(Text, "draw", spy)
    draw()
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def assert_legible(texts: list[Text], canvas: Any) -> None:
    """Asserts that there are texts, all within the picture, no two over each other.

    Args:
        texts: Drawn.
        canvas: On which.
    """
    names = [text.get_text() for text in texts]
    assert len(names) > 5
    x0, y0, x1, y1 = np.array([text.get_window_extent().extents for text in texts]).T
    width, height = canvas.get_width_height()
    outside = (x0 < -1) | (y0 < -1) | (x1 > width + 1) | (y1 > height + 1)
    assert [name for name, out in zip(names, outside, strict=True) if out] == []
    overlap = (x0[:, None] + SLACK < x1) & (y0[:, None] + SLACK < y1)
    overlapping = np.triu(overlap & overlap.T, 1)
    assert [(names[a], names[b]) for a, b in np.argwhere(overlapping)] == []
