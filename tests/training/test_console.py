"""What training prints, against its promised width and against closed forms of the numbers."""

from __future__ import annotations

import io
import math
import re

import pytest

from lowrank.common.terminal import duration
from lowrank.measure.layers import Layer
from lowrank.training.console import Console, epoch_line, layer_table, member_table

ROW = {
    "lr_now": 0.004,
    "train_loss": 0.012345,
    "train_accuracy": 0.98765,
    "test_loss": 123.456,
    "test_accuracy": 1.0,
    "rank_mean": 92.83,
    "throughput/images_per_second": 1234567.8,
}


def test_the_numbers_of_a_line_end_under_their_heads():
    stream = io.StringIO()
    Console(epochs=120, steps=1, batch_size=1, stream=stream).head()
    head = stream.getvalue().rstrip("\n")
    line = epoch_line(7, 120, ROW, 75)
    assert len(line) == len(head) == 80
    assert line.split() == [
        *("7/120", "0.004", "0.01235", "98.77%", "123.5", "100.00%", "92.8", "1,234,568", "1:15")
    ]
    ends = {found.end() for found in re.finditer(r"\S+", line)}
    assert ends == {found.end() for found in re.finditer(r"\S+( loss)?", head)}


@pytest.mark.parametrize("missing", ["absent", "NaN"])
def test_what_has_no_value_is_a_dash_and_never_a_number(missing):
    row = dict.fromkeys(ROW, math.nan) if missing == "NaN" else {}
    assert epoch_line(3, 3, row, math.nan).split() == ["3/3", *"-" * 8]


def test_long_runs_and_odd_numbers_keep_their_columns_apart():
    row = ROW | {"lr_now": 1.2345e-7, "train_loss": 1.2345e30, "test_loss": math.inf}
    assert len(epoch_line(99_999, 99_999, row, 3e6).split()) == 9


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1h00"), (86400, "1d0h"),
     (math.nan, "-"), (math.inf, "-")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


LAYERS = [
    Layer("layer4_0_downsample_0", "layer4.0.downsample.0.weight", (512, 256), 16, False),
    Layer("layer4_0_conv1", "layer4.0.conv1.weight", (512, 2304), 16, True),
]


def test_the_table_shows_every_layer_and_what_is_not_counted():
    first = {"rank/layer4_0_conv1": 512.0, "rank/layer4_0_downsample_0": 256.0}
    first |= {"rank_mean": 512.0, "rank_mean_all": 384.0}
    last = first | {"rank/layer4_0_conv1": 17.0, "stable_rank/layer4_0_conv1": 3.14159}
    last |= {"rank_mean": 17.0, "rank_mean_all": 136.5, "rank/layer4_0_downsample_0": math.nan}
    lines = layer_table(LAYERS, first, last).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[1:5]] == [
        ["layer4_0_downsample_0*", "512×256", "256", "256", "-", "-"],
        ["layer4_0_conv1", "512×2304", "512", "512", "17", "3.14"],
        ["rank_mean", "512.0", "512.0", "17.0", "-"],
        ["rank_mean_all", "384.0", "384.0", "136.5"],
    ]
    assert lines[5].startswith("* not counted in rank_mean")


def test_the_time_left_follows_from_the_pace(monkeypatch):
    now = 100.0
    monkeypatch.setattr("lowrank.training.console.time.monotonic", lambda: now)
    stream = io.StringIO()
    with Console(epochs=10, steps=5, batch_size=4, stream=stream) as console:
        console.start(2)
        for _ in range(5):
            console.stepped()
        now += 60
        console.epoch([{**ROW, "epoch": 3.0}])
    assert stream.getvalue().split()[-1] == "7:00"  # a minute for each of the seven epochs left


def test_the_table_of_a_pack_fits_the_terminal_however_many_settings_differ(monkeypatch):
    own = {"lr": 0.0125, "schedule": "warmup_cosine", "milestones": (60, 100, 200), "gamma": 0.5}
    own |= {"momentum": 0.9, "weight_decay": 0.0005, "seed": 1234567}
    row = {"train_accuracy": 1.0, "test_accuracy": 0.97, "rank_mean": 61.25}
    monkeypatch.setenv("COLUMNS", "80")
    lines = member_table({"pwt27u-0000": (own, row), "pwt27u-0001": (own, row)}).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["pwt27u-0000", "100.00%", "97.00%", "61.2"]
    assert "milestones=(60, 100, 200)" in " ".join(line.strip() for line in lines[2:4])
    assert len(lines) == 7
