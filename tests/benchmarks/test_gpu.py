"""The check of a GPU: its own logic, and each of its checks on the CPU, where all must pass."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from functools import partial

import pytest
import torch

from benchmarks import gpu, gpu_checks, gpu_programs
from benchmarks.gpu_checks import Check
from lowrank.measure import spectra


def test_what_fails_hangs_or_dies_is_told_and_the_others_go_on(capsys):
    checks = {
        "fails": Check(partial(int, "one\nmore"), 60),
        "works": Check(partial(str, "fine"), 60),
        "hangs": Check(partial(time.sleep, 600), 0.3),
        "dies": Check(partial(os._exit, 9), 60),
        "works again": Check(partial(str, "fine too"), 60),
    }
    results = gpu.go_through(checks, 600, "cpu")
    assert [(r.verdict, r.text) for r in results] == [
        ("FAILED", r"ValueError: invalid literal for int() with base 10: 'one\nmore'"),
        ("ok", "fine"),
        ("FAILED", "not done within 0 s"),
        ("FAILED", "its process died with exit code 9"),
        ("ok", "fine too"),
    ]
    assert "ok      works again: fine too" in capsys.readouterr().out
    assert gpu.table_of(results).endswith("2 ok, 3 FAILED, 0 skipped")


@pytest.mark.parametrize("seconds", [0, 0.02], ids=["none", "too little to start a process"])
def test_what_no_time_is_left_for_is_skipped(seconds):
    (late,) = gpu.go_through({"late": Check(partial(int, "x"), 60)}, seconds, "cpu")
    assert (late.verdict, late.text) == ("skipped", "no time is left")


def test_the_checks_and_the_speed_fit_into_the_time(monkeypatch):
    """Who is late is cut off, so that what counts is what stands before the doubtful long ones."""
    checks = gpu_checks.all_checks("cuda", quick=False)
    assert len(checks) == 6 + len(gpu_checks.MODES) * len(gpu_checks.FAMILIES)
    assert all(check.seconds <= gpu.SECONDS - gpu.SPEED for check in checks.values())
    asked = []
    monkeypatch.setattr(gpu, "check_device", lambda _: None)
    monkeypatch.setattr(gpu, "describe_place", lambda _: "a card")
    result = gpu.Result("one", "ok", "fine", 1.0)
    monkeypatch.setattr(gpu, "go_through", lambda *given: asked.append(given[1:]) or [result])
    monkeypatch.setattr(gpu, "measure_speed", lambda *given: asked.append(given) or 1)
    assert gpu.main(["--device=cuda", "--seconds=300"]) == 0
    (of_checks, place), (device, of_speed) = asked
    assert (of_checks, place, device) == (300 - gpu.SPEED, "cuda", "cuda")
    assert of_checks < of_speed <= 300


def test_packages_that_are_not_here_are_named(monkeypatch, capsys):
    assert gpu.lacking() == []

    def version(name):
        if name == "optuna":
            raise gpu.PackageNotFoundError

    monkeypatch.setattr(gpu, "version", version)
    assert gpu.main(["--device=cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not installed: 'optuna>=5.0,<6'; " in line
    assert "pip download --no-deps --dest=wheels 'optuna>=5.0,<6'`" in line


@pytest.mark.slow
def test_every_check_passes_on_the_cpu(tmp_path):
    path = tmp_path / "found.json"
    assert gpu.main(["--device=cpu", "--quick", "--seconds=3000", f"--json={path}"]) == 0
    found = json.loads(path.read_text())
    assert {check["verdict"] for check in found["checks"]} == {"ok"}
    assert "resumed and rerun bitwise equal" in found["checks"][0]["text"]


def test_wrong_spectra_are_found(monkeypatch):
    monkeypatch.setattr(gpu_checks, "SHAPES", ((10, 30),))
    assert "ranks equal" in gpu_checks.spectra_are_right("cpu")
    right = spectra.singular_values
    monkeypatch.setattr(
        spectra, "singular_values", lambda *a, **k: [1.01 * s for s in right(*a, **k)]
    )
    with pytest.raises(AssertionError, match="times the bound"):
        gpu_checks.spectra_are_right("cpu")


@pytest.mark.slow
def test_a_wrong_pack_is_found(monkeypatch):
    assert "float64 tensors differ by " in gpu_checks.pack_is_right("cpu")
    assert torch.get_default_dtype() is torch.float32
    monkeypatch.setitem(gpu_checks.SMALL, "batch_norm", False)
    right = torch.nn.functional.linear

    def off(*given, **named):
        outputs = right(*given, **named)
        return outputs * (1 + 1e-6) if isinstance(outputs, torch.Tensor) and batched() else outputs

    def batched():
        return torch._C._functorch.peek_interpreter_stack() is not None

    monkeypatch.setattr(torch.nn.functional, "linear", off)
    with pytest.raises(AssertionError, match="tensors differ by"):
        gpu_checks.pack_is_right("cpu")


def test_without_the_tests_server_the_agents_are_not_checked(monkeypatch):
    monkeypatch.setitem(sys.modules, "tests.wandb_server", None)
    with pytest.raises(gpu_programs.NotHereError, match="the server of the tests"):
        gpu_programs.agents_share("cpu")


def test_a_loss_that_is_no_number_is_found(monkeypatch):
    from lowrank.training.learner import Learner

    fields = {"depth": 1, "width": 4}
    assert "images/s" in gpu_checks.trains("cpu", fields)
    monkeypatch.setattr(Learner, "evaluate", lambda *_: ((math.nan,), (0.1,)))
    with pytest.raises(AssertionError, match="the loss is nan"):
        gpu_checks.trains("cpu", fields)
