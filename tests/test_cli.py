"""The lowrank command: what is printed and drawn, against numpy's SVD in float64.

The command is called as its users do, through `main`, on files that torch wrote.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import train
from lowrank import load_run
from lowrank.cli import COMMANDS, main
from lowrank.views.spectra.figure import spectra_figure
from lowrank.views.spectra.quantities import measure
from lowrank.views.spectra.weights import read_weights

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A randomly initialised ResNet-50 and the file of its state dict."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    path = tmp_path_factory.mktemp("resnet50") / "resnet50.pt"
    torch.save(network.state_dict(), path)
    return network, path


def save(path: Path, **weights: Any) -> str:
    """Saves weights of modules by path; returns the file's name."""
    state = {f"{name}.weight": torch.as_tensor(value) for name, value in weights.items()}
    torch.save(state, path)
    return str(path)


def output(capture: Capture, *words: object, code: int = 0) -> str:
    """Runs the command and returns what it printed to the one stream that fits the code."""
    assert main([str(word) for word in words]) == code
    printed, complaints = capture.readouterr()
    assert (complaints if code == 0 else printed) == ""
    return printed if code == 0 else complaints


def measured(capture: Capture, *words: object) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(output(capture, "spectra", *words, "--json"))["files"]
    return files


def svd(weight: Any) -> np.ndarray:
    matrix = torch.as_tensor(weight).detach().double().numpy()
    return np.linalg.svd(matrix.reshape(len(matrix), -1), compute_uv=False)


def test_resnet50_has_54_matrices_and_conv3_spectra_of_its_own(
    capsys: Capture, resnet50: tuple[nn.Module, Path]
):
    network, path = resnet50
    (file,) = measured(capsys, path, "--model=resnet50")
    found = {matrix["path"]: matrix for matrix in file["matrices"]}
    modules = dict(network.named_modules())
    expected = {
        f"{name}.weight": module
        for name, module in modules.items()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    assert list(found) == list(expected)
    assert len(found) == 54
    assert sum(matrix["counted"] for matrix in found.values()) == 49
    for name, module in expected.items():
        if name.endswith("conv3.weight"):
            own, other = svd(module.weight), svd(modules[name[:-12] + "conv2"].weight)
            s = np.array(found[name]["singular_values"])
            np.testing.assert_allclose(s, own, rtol=1e-9, atol=1e-9 * own[0])
            assert np.abs(s - other).max() > 0.01 * own[0]
            norm = np.sqrt((own**2).sum())
            assert found[name]["rank@0.01"] == (own / norm > 0.01).sum()


def test_resnet50_as_a_table(capsys: Capture, resnet50: tuple[nn.Module, Path]):
    text = output(capsys, "spectra", resnet50[1], "--model=resnet50")
    lines = text.splitlines()
    assert max(map(len, lines[1:])) <= 80  # the first names the file
    table = lines[lines.index("") + 3 :]
    ranks = {name: (int(full), int(rank)) for name, _, full, rank, *_ in map(str.split, table[:54])}
    assert len(ranks) == 54
    assert "layer1_0_conv3" in ranks and "fc*" in ranks and "layer1_0_downsample_0*" in ranks
    counted = [pair for name, pair in ranks.items() if not name.endswith("*")]
    for line, pairs in ((table[54], counted), (table[55], list(ranks.values()))):
        assert [float(cell) for cell in line.split()[1:3]] == np.mean(pairs, axis=0).round(
            1
        ).tolist()
    assert "effective" in text and "25,502,912 weights" in text
    assert "as the modules of resnet50 have them" in text


def test_table_of_a_file(capsys: Capture, tmp_path: Path):
    path = save(tmp_path / "x.pt", fc=np.diag([4.0, 3.0, 0.004]), conv=np.ones((2, 1, 3)))
    torch.save(torch.load(path) | {"extra": torch.ones(2, 2)}, path)
    text = output(capsys, "spectra", path, "--epsilons=[1e-4, 1e-3]")
    lines = text.splitlines()
    assert lines[0] == f"{path}: 2 weight matrices, 15 weights"
    assert lines[1].startswith("rows = first dimension, as no model is named")
    assert lines[3] == "rank@ε: number of σ/‖W‖ > ε, with the frobenius norm"
    assert (
        " ".join(lines[6].split()) == "matrix shape full 0.0001 0.001 stable effective energy ‖W‖"
    )
    assert "in --json and --csv also: spectral_norm" in lines
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["fc"] == ["3×3", "3", "3", "2", "1.56", "2.0", "2", "5"]
    assert rows["conv"] == ["2×3", "2", "1", "1", "1.00", "1.0", "1", "2.449"]
    assert rows["rank_mean_all"][:3] == ["2.5", "2.0", "1.5"]
    assert "skipped extra 2×2: its name does not say weight" in text


def test_long_names_keep_the_table_narrow(capsys: Capture, tmp_path: Path):
    name = "encoder.layers.encoder_layer_11.self_attention.out_proj"
    lines = output(capsys, "spectra", save(tmp_path / "x.pt", **{name: np.eye(700)})).splitlines()
    assert name.replace(".", "_") in lines
    assert max(map(len, lines[1:])) <= 80


def test_matrix_without_rank_is_nan_with_a_word(capsys: Capture, tmp_path: Path):
    weights = {
        "nan": [[1.0, np.nan]],
        "inf": [[np.inf, 1.0]],
        "zero": np.zeros((2, 2)),
        "one": [[1.0]],
    }
    path = save(tmp_path / "x.pt", **weights)
    text = output(capsys, "spectra", path)
    assert "nan is not finite" in text and "inf is not finite" in text
    assert "zero is zero: it has no stable" in text
    mean = next(line for line in text.splitlines() if line.startswith("rank_mean_all"))
    assert mean.split()[1:] == ["1.2", *["NaN"] * 5]
    (file,) = measured(capsys, path)
    rank = {m["name"]: m["rank@0.001"] for m in file["matrices"]}
    assert rank == {"nan": None, "inf": None, "zero": 0.0, "one": 1.0}
    assert file["means"] == {"rank_mean_all": dict.fromkeys(file["means"]["rank_mean_all"])}


def test_csv_and_json_agree(capsys: Capture, tmp_path: Path):
    torch.manual_seed(2)
    path = save(tmp_path / "x.pt", a=torch.randn(5, 3), b=torch.randn(4, 2, 3, 3))
    words = (path, path, "--epsilons=0.1,0.5", "--rank_norm=spectral")
    text = output(capsys, "spectra", *words, "--csv")
    files = measured(capsys, *words)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == ["a", "b", "a", "b"]
    for row, matrix in zip(rows[:2], files[0]["matrices"], strict=True):
        s = np.array(matrix["singular_values"])
        np.testing.assert_allclose(s, svd(torch.load(path)[row["path"]]), rtol=1e-12)
        truth = {
            "rank@0.1": (s / s[0] > 0.1).sum(),
            "rank@0.5": (s / s[0] > 0.5).sum(),
            "stable_rank": (s**2).sum() / s[0] ** 2,
            "frobenius_norm": np.sqrt((s**2).sum()),
            "spectral_norm": s[0],
            "full_rank": len(s),
        }
        for name, value in truth.items():
            assert float(row[name]) == pytest.approx(value) == matrix[name]


def test_two_files_side_by_side(capsys: Capture, tmp_path: Path):
    then = save(tmp_path / "then.pt", a=np.eye(4), b=np.eye(2), fc=np.eye(3), old=np.eye(2))
    now = save(tmp_path / "now.pt", a=np.diag([1, 1, 1, 1e-3]), b=np.eye(2), fc=np.ones((5, 3)))
    lines = output(capsys, "spectra", then, now).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["a"] == ["4×4", "4", "3", "-1", "4", "3", "-1", "4.00", "3.00", "-1.00"]
    assert rows["b"][:7] == ["2×2", "2", "2", "+0", "2", "2", "+0"]
    assert "only then: old 2×2" in lines
    assert "of another shape: fc 3×3 then, 5×3 now" in lines
    assert "rank_mean_all" not in rows  # it would be of different matrices
    assert "rank_mean_all" in output(capsys, "spectra", then, then)
    assert output(capsys, "spectra", then, now, then).count("weight matrices,") == 3

    other = save(tmp_path / "other.pt", z=np.eye(2))
    assert "no matrix of one file has the name and shape" in output(capsys, "spectra", then, other)


def test_run_directory_shows_what_the_run_recorded(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = "--epochs=1 --width=12 --depth=2 --train_size=64 --tracking=disabled --device=cpu"
    assert train.main([*words.split(), "--run_id=one"]) == 0
    capsys.readouterr()
    (file,) = measured(capsys, "runs/one")
    run = load_run("runs/one")
    assert file["model"] == "mlp"
    assert [m["name"] for m in file["matrices"]] == [layer.name for layer in run.layers]
    for matrix in file["matrices"]:
        np.testing.assert_array_equal(matrix["singular_values"], run.spectra[matrix["name"]][-1])
        assert matrix["rank@0.001"] == run.metrics[f"rank/{matrix['name']}"][-1]
        assert matrix["frobenius_norm"] == run.metrics[f"frobenius_norm/{matrix['name']}"][-1]
    assert file["means"]["rank_mean"]["rank@0.001"] == run.metrics["rank_mean"][-1]

    # Collapse is judged from the largest norm so far, and is never shown as low rank.
    weights = read_weights("runs/one")
    weights.largest_norms["linear1"] *= 1e7  # type: ignore[index]
    row = measure(weights).rows[0]
    assert np.isnan(row.quantities["rank@0.001"]) and row.remark.startswith("collapsed")


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_plot(capsys: Capture, tmp_path: Path, form: str):
    path, drawn = save(tmp_path / "x.pt", a=np.eye(4), b=[[1.0]]), tmp_path / f"x.{form}"
    assert f"drawn in {drawn}" in output(capsys, "spectra", path, "--plot", drawn)
    assert drawn.read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[form])


def test_figure_shows_every_matrix_of_both_files(tmp_path: Path):
    torch.manual_seed(3)
    both = {f"layer.{i}": torch.randn(6, 9) for i in range(27)}
    then = measure(read_weights(save(tmp_path / "then.pt", **both)))
    now = measure(read_weights(save(tmp_path / "now.pt", **both | {"layer.3": [[np.nan] * 2] * 2})))
    figure = spectra_figure([then, now])
    axes = [a for a in figure.axes if a.get_visible()]
    assert [a.get_title() for a in axes][:2] == ["layer_0 (6)", "layer_1 (6)"]
    assert len(axes) == 27
    curves = [[line for line in a.lines if line.get_linestyle() == "-"] for a in axes]
    assert [len(c) for c in curves] == [2] * 3 + [1] + [2] * 23
    s = then.rows[5].spectrum
    np.testing.assert_allclose(np.asarray(curves[5][0].get_ydata(), float), s / np.linalg.norm(s))
    assert [text.get_text() for text in axes[3].texts] == ["not finite", "6"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which file? for example"),
        (["x.pt", "--epsilon=0.1"], "unknown flag '--epsilon=0.1', did you mean 'epsilons'?"),
        (["x.pt", "--rank-norm=spectral"], "did you mean 'rank_norm'?"),
        (["x.pt", "-j"], "unknown flag '-j'"),
        (["x.pt", "--epsilons=2"], "epsilons: got '2' from --epsilons; allowed: a list of 1 to 16"),
        (["x.pt", "--rank_norm=nuclear"], "allowed: frobenius or spectral"),
        (["x.pt", "--model"], "model: no value after --model"),
        (["x.pt", "--json=maybe"], "json: got 'maybe'; allowed: True or False"),
        (["x.pt", "--json", "--csv"], "allowed: one of them"),
        (["x.pt", "--json", "--json"], "json: given twice"),
        (["x.pt", "--plot=x.txt"], "allowed: a file that ends with .png, .pdf or .svg"),
        (["x.pt", "--plot=nowhere/x.png"], "there is no directory 'nowhere'"),
        (["x.pt"], "lowrank: x.pt: there is no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(capsys: Capture, words: list[str], said: str):
    assert said in output(capsys, "spectra", *words, code=2)


def test_all_mistakes_are_told_at_once_and_before_torch_is_loaded():
    program = (
        "import sys; from lowrank.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(3 if 'torch' in sys.modules else code)"
    )
    words = ["spectra", "x.pt", "--epsilon=1", "--epsilons=2", "--plot=x.txt"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_switch_takes_no_file_for_its_value(capsys: Capture, tmp_path: Path):
    path = save(tmp_path / "x.pt", a=np.eye(2))
    assert json.loads(output(capsys, "spectra", "--json", path))
    assert "matrix" in output(capsys, "spectra", "--json=False", path)


def test_help(capsys: Capture):
    text = output(capsys, "--help")
    assert all(f"lowrank {name} " in text for name in COMMANDS)
    assert output(capsys) == text
    for name in COMMANDS:
        assert output(capsys, name, "--help").startswith(f"usage: lowrank {name} ")
    lines = output(capsys, "spectra", "--help").splitlines()
    assert max(map(len, lines)) <= 80
    assert {"--model=NAME", "--epsilons=LIST", "--plot=FILE"} <= {
        line.split()[0] for line in lines if line
    }


def test_unknown_command(capsys: Capture):
    assert "did you mean 'spectra'?" in output(capsys, "spektra", code=2)
