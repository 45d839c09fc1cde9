"""When a run is drawn while it goes on: beside a clock that the test sets.

python -m pytest tests/training/test_pictures.py
"""

import pytest

from lowrank.training import pictures
from lowrank.training.pictures import Pictures


@pytest.mark.parametrize(
    ("members", "seconds_an_epoch", "expected"),
    [
        (1, 1000.0, 10),  # every tenth of the run
        (1, 0.5, 3),  # 50 s: 1 s for the first and 2 s each, a tenth of it is 5 s
        (4, 0.5, 1),  # of which each has a quarter
        (1, 0.05, 0),  # 5 s
    ],
)
def test_by_default_about_ten_and_at_most_a_tenth_of_the_time(
    monkeypatch, members, seconds_an_epoch, expected
):
    now = [0.0]
    monkeypatch.setattr(pictures.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pictures, "pictures", lambda _: now.__setitem__(0, now[0] + 2) or {})
    due = Pictures(None, epochs=100, members=members)
    drawn = []
    for epoch in range(101):
        if due.are_due(epoch):
            due.draw(None)
            drawn.append(epoch)
        now[0] += seconds_an_epoch
    assert len(drawn) == expected
    assert all(epoch % 10 == 0 for epoch in drawn)


def test_what_is_asked_for_is_drawn_whatever_it_takes(monkeypatch):
    monkeypatch.setattr(pictures.time, "monotonic", lambda: 0.0)
    due = Pictures(7, epochs=20, members=8)
    assert [epoch for epoch in range(21) if due.are_due(epoch)] == [7, 14]
