"""``lowrank figures`` from records to files: names, sizes, formats, remarks and every complaint.

Sizes are read from the files themselves: the header of a PNG, the page box of a PDF.
"""

from __future__ import annotations

import csv
import re
import struct
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

import train
from lowrank import load_run
from lowrank.cli import main
from lowrank.views.figures import style
from tests.views.table.records import make_run


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A grid of lr and weight decay; one point collapsed, one missing."""
    top = tmp_path_factory.mktemp("grid")
    for number, (lr, decay) in enumerate(product((0.1, 0.2), (0, 1e-3, 2e-3))):
        if number == 5:
            continue
        gone = 1 if number == 4 else None
        make_run(top / f"r{number}", [16, 9 + number, 4 + number], lr=lr, weight_decay=decay,
                 collapsed_from=gone)  # fmt: skip
    return top


def output(capsys, *words, code=0):
    assert main(["figures", *map(str, words)]) == code
    captured = capsys.readouterr()
    return (captured.out if code == 0 else captured.err).splitlines()


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    return struct.unpack(">II", content[16:24])


def pdf_page(path):
    """Width and height in points, 72 to the inch."""
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", path.read_bytes())
    return [float(number) for number in box.groups()]


def test_a_grid_gives_its_figures_and_says_what_is_missing_or_collapsed(capsys, grid, tmp_path):
    lines = output(capsys, grid, f"--output={tmp_path}", "--dpi=60")
    stems = ["curves-lr", "curves-weight_decay", "landscape-lr-weight_decay"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(f"{stem}.{form}" for stem in stems for form in ("pdf", "png"))
    assert lines[0] == (
        f"{tmp_path}/curves-lr.pdf, {tmp_path}/curves-lr.png: average rank and accuracy over "
        "epochs by learning rate, a panel for each weight decay; ε = 0.001, 5 runs"
    )
    assert lines[3:] == [
        "collapsed since epoch 1: run r4 (lr=0.2 weight_decay=0.001 seed=0)",
        "missing: lr=0.2 weight_decay=0.002",
    ]


def test_pictures_have_the_size_asked_for(capsys, grid, tmp_path):
    words = ["--kind=landscape", "--width=3", "--height=2.5", "--dpi=77", f"--output={tmp_path}"]
    output(capsys, grid, *words)
    assert png_size(tmp_path / "landscape-lr-weight_decay.png") == (231, 192)
    assert pdf_page(tmp_path / "landscape-lr-weight_decay.pdf") == [216, 180]


def test_the_default_is_a_column_or_a_page_wide(capsys, grid, tmp_path):
    output(capsys, grid, "--format=pdf", f"--output={tmp_path}")
    widths = {path.stem: pdf_page(path)[0] for path in tmp_path.iterdir()}
    assert widths["landscape-lr-weight_decay"] == pytest.approx(72 * style.PAGE_WIDTH)
    assert widths["curves-lr"] == pytest.approx(72 * style.PAGE_WIDTH)


def test_pdfs_embed_truetype_fonts_and_repeat_bit_for_bit(capsys, grid, tmp_path):
    for name in "ab":
        output(capsys, grid, "--kind=landscape", f"--output={tmp_path / name}.pdf")
    first, second = ((tmp_path / f"{name}.pdf").read_bytes() for name in "ab")
    assert first == second
    assert b"/Subtype /CIDFontType2" in first or b"/Subtype /TrueType" in first
    assert b"/FontFile2" in first
    assert b"/Subtype /Type3" not in first


def test_one_file_and_its_numbers(capsys, grid, tmp_path):
    file = tmp_path / "fig1.svg"
    (first, *_) = output(capsys, grid, "--kind=landscape", f"--output={file}", "--csv")
    assert first.startswith(f"{file}, {tmp_path}/fig1.csv: average rank over learning rate and")
    assert file.read_text().startswith("<?xml")
    with (tmp_path / "fig1.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    found = {(line["learning rate"], line["weight decay"]): line["rank_mean"] for line in lines}
    assert found[("0.1", "0")] == "4.0"
    assert found[("0.2", "0.001")] == found[("0.2", "0.002")] == ""


def test_any_threshold_is_drawn(capsys, grid, tmp_path):
    words = ["--kind=landscape", f"--output={tmp_path}/f.png", "--csv", "--epsilon=1e-6"]
    (first, *_) = output(capsys, grid, *words, "--dpi=50")
    assert "; ε = 1e-06, 5 runs" in first
    with (tmp_path / "f.csv").open() as stream:
        ranks = {line["rank_mean"] for line in csv.DictReader(stream)}
    assert ranks == {"16.0", ""}
    (first, *_) = output(capsys, grid, *words, "--rank_norm=spectral", "--epoch=1", "--dpi=50")
    assert "; ε = 1e-06, spectral norm, 5 runs" in first


def test_where_chooses_runs(capsys, grid, tmp_path):
    words = ["--format=png", "--dpi=50", f"--output={tmp_path}"]
    (line,) = output(capsys, grid, *words, "--where={lr: 0.1}")
    assert "curves-weight_decay.png" in line and "3 runs" in line
    (line,) = output(capsys, grid, *words, "--where={lr: [0.1, 0.2], weight_decay: 0}")
    assert "curves-lr.png" in line and "2 runs" in line


def test_a_sweep_file_names_the_points_that_have_no_run(capsys, grid, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "program: train.py\nmethod: grid\nmetric: {name: rank_mean, goal: minimize}\nparameters:\n"
        "  lr: {values: [0.1, 0.2, 0.4]}\n  weight_decay: {values: [0, 0.001]}\n"
    )
    words = ["--kind=landscape", "--format=png", "--dpi=50", f"--output={tmp_path}"]
    _, *lines = output(capsys, grid, *words, f"--sweep={file}")
    assert lines == [
        "left out: run r2 is at no point of the sweep (lr=0.1 weight_decay=0.002)",
        "collapsed since epoch 1: run r4 (lr=0.2 weight_decay=0.001 seed=0)",
        "missing: lr=0.4 weight_decay=0",
        "missing: lr=0.4 weight_decay=0.001",
    ]


def test_runs_that_were_trained(capsys, tmp_path):
    for lr in (0.1, 0.4):
        words = f"--epochs=2 --width=16 --depth=2 --lr={lr} --train_size=64 --tracking=disabled"
        words += f" --device=cpu --output_dir={tmp_path / 'runs'} --run_id=lr{10 * lr:.0f}"
        assert train.main(words.split()) == 0
    capsys.readouterr()
    (line,) = output(capsys, tmp_path / "runs", f"--output={tmp_path / 'f.png'}", "--csv")
    assert "by learning rate" in line
    with (tmp_path / "f.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    for lr in ("0.1", "0.4"):
        run = load_run(tmp_path / "runs" / f"lr{10 * float(lr):.0f}")
        for name in ("rank_mean", "train_accuracy", "test_accuracy"):
            shown = [float(line[name]) for line in lines if line["learning rate"] == lr]
            assert shown == run.metrics[name].tolist()


def test_a_record_of_another_loop_is_drawn_by_its_name(capsys, tmp_path):
    for name in ("mine", "yours"):
        make_run(tmp_path / "runs" / name, [16, 9], config={}, accuracy=None)
    (line,) = output(capsys, tmp_path / "runs", "--format=png", "--dpi=50", f"--output={tmp_path}")
    assert line.startswith(f"{tmp_path}/curves-run.png: average rank over epochs by run")


def test_ones_own_metric_is_drawn_by_its_name(capsys, tmp_path):
    import torch

    import lowrank

    watcher = lowrank.watch(torch.nn.Linear(4, 3), record=tmp_path / "mine", include=["weight"])
    values = [3.5, -1.25, 0.5]
    for epoch, value in enumerate(values):
        watcher.log(epoch, my_metric=value)
    file = tmp_path / "f.png"
    line, *_ = output(capsys, tmp_path / "mine", "--metric=my_metric", f"--output={file}", "--csv",
                     "--kind=curves", "--dpi=50")  # fmt: skip
    assert "my metric" in line
    with (tmp_path / "f.csv").open() as stream:
        found = list(csv.DictReader(stream))
    assert [float(each["my_metric"]) for each in found] == values


def test_an_older_figure_survives_a_failure(capsys, grid, tmp_path, monkeypatch):
    file = tmp_path / "f.png"
    output(capsys, grid, "--kind=landscape", f"--output={file}", "--dpi=50")
    before = file.read_bytes()
    from matplotlib.figure import Figure

    def fail(_, path, **_options):
        path.write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    (line,) = output(capsys, grid, "--kind=landscape", f"--output={file}", "--dpi=70", code=1)
    assert line == f"lowrank: {file}: cannot be written (No space left on device)"
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--by=batch_size"],
            "by: batch_size does not vary over these runs; allowed: lr or weight",
        ),
        (["--x=lrr"], "x: lrr does not vary over these runs"),
        (["--where={lrr: 0.1}"], "where: no run has a setting 'lrr', did you mean 'lr'?"),
        (["--where={lr: 7}"], "where: none of 5 runs has these values; lr is 0.1, 0.2"),
        (["--where={lr: fast}"], "where: lr=fast is no value of lr"),
        (["--where={model: mpl}"], "not 'mpl', did you mean 'mlp'?"),
        (["--where=lr"], "where must be a mapping"),
        (["--output=f.pdf"], "output: 3 figures do not fit into one file; name a directory"),
        (
            ["--kind=curve"],
            "kind: got 'curve'; allowed: curves, landscape, scatter, spectra, ratio, truncation, "
            "directions or all",
        ),
        (["--kind=curves", "--epoch=3"], "are of landscapes; allowed: kind=landscape or all"),
        (["--kind=landscape", "--by=lr"], "by is of curves; allowed: kind=curves or all"),
        (["--format=jpg"], "format: got 'jpg'; allowed: pdf, png, svg or several"),
        (["--output=f.pdf", "--format=png"], "format: got 'png' for a file that ends with .pdf"),
        (["--dpi=20"], "dpi: got '20'; allowed: a whole number from 50 to 2400"),
        (["--width=wide"], "width: got 'wide'; allowed: inches from 1 to 40"),
        (["--height=0"], "height: got '0'; allowed: inches from 1 to 40"),
        (["--epsilon=1"], "epsilon: got '1'; allowed: a number above 0 and below 1"),
        (["--epoch=-1"], "epoch: got '-1'; allowed: a whole number from 0"),
        (["--rank_norm=nuclear"], "rank_norm: got 'nuclear'; allowed: frobenius or spectral"),
        (["--metric=tran_loss"], "metric: no run has recorded 'tran_loss'"),
        (["--formt=png"], "unknown flag '--formt=png', did you mean 'format'?"),
        (["--csv=maybe"], "csv: got 'maybe'; allowed: True or False"),
        (["--sweep=nowhere.yaml"], "cannot read nowhere.yaml"),
        (["--where={lr: 0.1}", "--kind=landscape"], "no landscape: only weight_decay varies"),
        (["--output=/dev/null/x"], "output: cannot make the directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(capsys, grid, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert any(said in line for line in output(capsys, grid, *words, code=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["figures", "runs"])
def test_the_help_is_80_columns_wide(capsys, command):
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: lowrank {command} PATH...")
    assert max(map(len, lines)) <= 80


def test_no_runs_and_no_epochs(capsys, tmp_path):
    assert output(capsys, code=2) == ["lowrank: which runs? for example: lowrank figures runs"]
    assert "there is no run here" in output(capsys, tmp_path, code=2)[0]
    make_run(tmp_path / "a", [], epochs=3)
    assert "none of the runs has a measured epoch yet" in output(capsys, tmp_path, code=2)[0]


def test_all_mistakes_are_told_at_once_and_before_anything_is_loaded():
    program = (
        "import sys; from lowrank.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(3 if {'torch', 'matplotlib'} & set(sys.modules) else code)"
    )
    words = ["figures", "--epsilon=2", "--dpi=1", "--kind=x"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 4


def test_the_pixels_of_a_png_are_drawn(grid, capsys, tmp_path):
    """Not blank: the first and the last colour of the map are there."""
    output(capsys, grid, "--kind=landscape", f"--output={tmp_path}/f.png", "--dpi=50")
    from matplotlib import colormaps
    from matplotlib.image import imread

    pixels = (255 * imread(tmp_path / "f.png")[..., :3]).round().reshape(-1, 3)
    for end in (0.0, 1.0):
        colour = np.round(255 * np.array(colormaps["cividis"](end)[:3]))
        assert (np.abs(pixels - colour).max(axis=1) <= 2).any()
