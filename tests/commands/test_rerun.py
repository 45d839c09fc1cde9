"""``lowrank rerun`` on real trainings: the same again is bitwise identical, and nothing else is.

Records in which one bit was flipped, cut short, or of other seeds, versions and programs are made
from that of a real run; what is printed is compared with what was changed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lowrank.cli import main
from lowrank.config import Config
from lowrank.runs.find import load_run
from lowrank.runs.format import SCHEMA_VERSION
from tests.launch.reruns.helpers import ROOT, TINY, differing, interrupted, rerun, rewritten
from train import main as train


def flipped(epoch, kind, name, bit=0, number=0):
    """Flips one bit of a number of one epoch."""

    def change(at, metrics, spectra):
        if at == epoch and kind == "metric":
            value = np.array([metrics[name]])
            value.view(np.uint64)[0] ^= np.uint64(1 << bit)
            metrics[name] = float(value[0])
        elif at == epoch:
            spectra[name].view(np.uint64)[number] ^= np.uint64(1 << bit)

    return change


def without(name):
    """Returns the flags of a tiny run but one."""
    return [flag for flag in TINY if not flag.startswith(f"--{name}=")]


def test_the_same_run_again_is_bitwise_identical(trained, capsys):
    text, new = rerun(capsys, trained.path.parent, "--check")
    compared = [n for n in trained.metrics if not n.startswith(("time/", "throughput/"))]
    assert (
        f"check: bitwise identical: 3 epochs, {len(compared)} metrics and the spectra of 3 layers"
        in text
    )
    assert differing(text) == []
    assert new.id != trained.id
    assert new.path.parent.parent == trained.path.parent.parent
    for name in compared:
        np.testing.assert_array_equal(new.metrics[name], trained.metrics[name])
    for name, spectra in trained.spectra.items():
        assert new.spectra[name].tobytes() == spectra.tobytes()


def test_every_field_is_restored_and_the_new_run_says_what_it_repeats(trained, work, capsys):
    copy = rewritten(trained, work / "elsewhere")
    _, new = rerun(capsys, copy / "record.sqlite")
    assert new.path.parent.parent == Path("runs")
    changed = {n: v for n, v in new.config.items() if v != trained.config[n]}
    assert changed == {"tags": ["first", "rerun", "a"], "device": "cpu", "output_dir": "runs"}
    assert new.config["seed"] == trained.config["seed"]
    assert trained.config["threads"] == new.config["threads"] == 1


def test_the_record_outweighs_the_environment(trained, work, capsys, monkeypatch):
    for name, value in (("LR", "7"), ("RUN_ID", "a"), ("RESUME", "must"), ("SEED", "9")):
        monkeypatch.setenv(f"LOWRANK_{name}", value)
    monkeypatch.setenv("LOWRANK_OUTPUT_DIR", str(work / "mine"))
    monkeypatch.setenv("WANDB_RUN_ID", "a")
    copy = rewritten(trained, work / "elsewhere")
    text, new = rerun(capsys, copy / "record.sqlite", "--check")
    assert "bitwise identical" in text
    assert new.path.parent.parent == work / "mine"


@pytest.mark.parametrize("bit", [0, 63], ids=["last bit", "sign"])
@pytest.mark.parametrize(
    ("epoch", "kind", "name"),
    [
        (0, "spectrum", "classifier"),
        (2, "spectrum", "linear2"),
        (1, "metric", "test_loss"),
        (2, "metric", "stable_rank/linear1"),
    ],
)
def test_one_flipped_bit_is_found_where_it_is(trained, work, capsys, epoch, kind, name, bit):
    change = flipped(epoch, kind, name, bit, number=1)
    copy = rewritten(trained, work / "runs/a", change=change)
    text, new = rerun(capsys, copy, "--check", code=1)
    same = {0: "0 epochs before it are", 1: "1 epoch before it is", 2: "2 epochs before it are"}
    assert f"check: differs from epoch {epoch} on; {same[epoch]} bitwise identical" in text
    values = new.metrics[name] if kind == "metric" else new.spectra[name][:, 1]
    k = len(new.spectra[name][0]) if kind == "spectrum" else 0
    what = name if kind == "metric" else f"spectrum of {name}, singular value 2 of {k}"
    (line,) = [line for line in text.splitlines() if line.startswith(f"check: {what}: ")]
    was, now = (float(word) for word in re.findall(r"(\S+) was recorded, now (\S+) ", line)[0])
    assert now == values[epoch]
    if bit == 63:
        assert was == -now
    else:
        assert abs(was - now) == np.spacing(now)
    assert re.search(rf"\(absolute {abs(was - now):.3g}, relative \S+\)$", line)
    counts = (1, 0) if kind == "spectrum" else (0, 1)
    assert "check: in all {} of 3 spectra and {} of ".format(*counts) in text


def test_another_seed_differs_at_epoch_0(trained, work, capsys):
    copy = rewritten(trained, work / "runs/a", config={"seed": trained.config["seed"] + 1})
    text, _ = rerun(capsys, copy, "--check", code=1)
    assert "check: differs from epoch 0 on; 0 epochs before it are bitwise identical" in text
    assert "check: spectrum of linear1, singular value" in text


@pytest.mark.parametrize("state", ["running", "failed", "stopped"])
def test_of_an_original_without_an_end_its_epochs_are_compared(trained, work, capsys, state):
    copy = rewritten(trained, work / "runs/a", state=state, epochs=2)
    text, new = rerun(capsys, copy, "--check")
    shown = "killed" if state == "running" else state  # nobody holds its directory
    assert f"check: the original is {shown}, its epochs up to 1 are compared" in text
    assert "check: bitwise identical: 2 epochs" in text
    assert new.epochs.tolist() == [0, 1, 2]


def test_an_original_that_is_running_is_compared_as_far_as_it_is(trained, work, capsys):
    from lowrank.runs.lock import lock

    copy = rewritten(trained, work / "runs/a", state="running", epochs=1)
    held = lock(copy)
    text, _ = rerun(capsys, copy, "--check")
    held.release()
    assert "rerun of a (running, 1 epoch)" in text
    assert "check: bitwise identical: 1 epoch," in text


def test_a_shorter_rerun_is_compared_as_far_as_it_goes(trained, work, capsys):
    copy = rewritten(trained, work / "runs/a")
    text, _ = rerun(capsys, copy, "--check", "--epochs=1")
    assert "note: epochs=1 instead of 2" in text
    assert "check: epochs up to 1 of the original's 2 are compared" in text
    assert "check: bitwise identical: 2 epochs" in text


def test_a_changed_run_is_said_and_with_check_refused(trained, work, capsys):
    copy = rewritten(trained, work / "runs/a")
    text, new = rerun(capsys, copy, "--lr=0.5", "--run_id=mine")
    assert "note: lr=0.5 instead of 0.1: the numbers may differ" in text
    assert (new.id, new.config["lr"]) == ("mine", 0.5)
    text, _ = rerun(capsys, copy, "--check", "--lr=0.5", "--width=9", code=2)
    assert text.splitlines() == [
        "lowrank: lr=0.5: --check compares with the original, which has lr=0.1; leave out --lr or "
        "--check",
        "lowrank: width=9: --check compares with the original, which has width=8; leave out "
        "--width or --check",
    ]
    assert sorted(path.name for path in (work / "runs").iterdir()) == ["a", "mine"]


@pytest.mark.parametrize(
    "config", [{"schedule": "cosine"}, {"measure_every": 2}], ids=lambda config: next(iter(config))
)
def test_another_number_of_epochs_is_refused_where_it_changes_the_others(
    trained, work, capsys, config
):
    copy = rewritten(trained, work / "runs/a", config=config)
    text, _ = rerun(capsys, copy, "--check", "--epochs=1", code=2)
    assert "epochs=1: --check compares with the original, which has epochs=2" in text


def test_a_run_id_in_use_is_never_gone_on_with(trained, work, capsys):
    copy = rewritten(trained, work / "runs/a")
    before = (copy / "record.sqlite").read_bytes()
    text, _ = rerun(capsys, copy, "--run_id=a", "--check", code=2)
    assert "resume=never, but the run directory" in text
    assert "nothing is compared: the rerun ended with exit code 2" in text
    assert (copy / "record.sqlite").read_bytes() == before


@pytest.mark.usefixtures("work")
def test_a_collapsed_run_has_the_same_nans(capsys):
    flags = ("--tracking=disabled", "--run_id=a", "--weight_decay=9.9", "--epochs=60")
    assert train([*without("epochs"), *flags, "--on_collapse=stop"]) == 0
    original = load_run("runs/a")
    assert np.isnan(original.metrics["rank_mean"]).any()
    text, new = rerun(capsys, "runs/a", "--check")
    assert "check: bitwise identical" in text
    assert new.state == original.state


def test_a_stop_ends_it_like_any_training(trained, work):
    copy = rewritten(trained, work / "runs/a", config={"epochs": 100_000, "checkpoint_every": 1000})
    words = [str(copy), "--check", "--run_id=b"]
    code, printed = interrupted(words, work, lambda process: process.send_signal(signal.SIGTERM))
    assert code == 143, printed
    assert "nothing is compared: the rerun ended with exit code 143" in printed
    assert load_run(work / "runs/b").state == "stopped"


# What cannot be repeated


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"momentun": 0.5}, "its configuration has 'momentun', unknown here"),
        ({"momentum": ..., "inertia": 0.0}, "its configuration lacks momentum"),
        ({"width": -3}, "width: got -3 from the record; allowed: a whole number from 1"),
        ({"width": {"a": 1}}, "width: got {'a': 1} from the record"),
        ({"lr": 1e308 * 10}, "lr: got inf from the record"),
        ({"seed": None}, "holds no seed or no threads; give --seed=N --threads=N"),
        ({"model": ...}, "is not the record of a run of train.py"),
        ({"output_dir": "a\nb"}, "output_dir: got 'a\\nb' from the record; allowed: a path"),
        ({"device": "auto; rm -rf /"}, "device: got 'auto; rm -rf /' from the record"),
    ],
    ids=str,
)
def test_a_configuration_that_is_none_is_refused_in_lines(trained, work, capsys, config, message):
    copy = rewritten(trained, work / "runs/a", config=config)
    text, new = rerun(capsys, copy, code=2)
    assert new is None
    assert message in text
    assert all(line.startswith("lowrank: ") for line in text.splitlines())
    assert [path.name for path in (work / "runs").iterdir()] == ["a"]


def test_a_run_of_another_version_names_both(trained, work, capsys):
    versions = {**trained.environment["versions"], "lowrank": "9.1.0"}
    copy = rewritten(
        trained,
        work / "runs/a",
        config={"tempo": 3, "momentum": ...},
        environment={"versions": versions},
    )
    text, _ = rerun(capsys, copy, code=2)
    (unknown, lacking) = text.splitlines()
    assert "it was recorded by lowrank 9.1.0, this is 0.1.0; rerun it with that version" in unknown
    assert lacking.endswith("or say what it was: --momentum=VALUE")


def test_a_field_that_an_older_record_lacks_can_be_given(trained, work, capsys):
    copy = rewritten(trained, work / "runs/a", config={"momentum": ...})
    text, new = rerun(capsys, copy, "--momentum=0", "--check")
    assert "bitwise identical" in text
    assert new.config["momentum"] == 0


@pytest.mark.parametrize("run_id", ["../../up", "<script>", "", "a" * 65])
def test_an_id_that_is_none_is_refused(trained, work, capsys, run_id):
    copy = rewritten(trained, work / "runs/a", run_id=run_id)
    text, _ = rerun(capsys, copy, code=2)
    assert "is not the record of a run of train.py" in text


@pytest.mark.usefixtures("work")
def test_a_record_of_another_loop_is_refused(capsys):
    import torch

    import lowrank

    watcher = lowrank.watch(torch.nn.Linear(4, 3), record="runs/mine", include=["weight"])
    watcher.log(0)
    watcher.close()
    text, _ = rerun(capsys, "runs/mine", code=2)
    assert "only the program that made it can run it again" in text


def test_a_record_without_epochs_has_nothing_to_compare(trained, work, capsys):
    copy = rewritten(trained, work / "runs/a", epochs=0)
    text, _ = rerun(capsys, copy, "--check", code=2)
    assert "holds no epoch that --check could compare" in text


def test_a_newer_record_and_a_missing_one_are_refused(trained, work, capsys):
    copy = rewritten(trained, work / "runs/a")
    record = copy / "record.sqlite"
    content = bytearray(record.read_bytes())
    content[60:64] = (SCHEMA_VERSION + 1).to_bytes(4, "big")  # user_version in SQLite's header
    record.write_bytes(content)
    text, _ = rerun(capsys, copy, code=2)
    assert "was written by a newer lowrank" in text
    text, _ = rerun(capsys, "runs/b", code=2)
    assert "there is no run record here" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which run? one, for example: lowrank rerun runs/ID --check"),
        (["a", "b"], "which run? one, for example"),
        (["a", "--chek"], "unknown flag '--chek', did you mean 'check'?"),
        (["a", "--check=perhaps"], "check: got 'perhaps'; allowed: True or False"),
        (["a", "--lr=x"], "lr: got 'x' from --lr; allowed: a finite number above 0"),
        (["a", "--resume=must"], "resume: a rerun is a new run; leave it out"),
        (["a", "--run_id=../b"], "run_id: got '../b' from --run_id; allowed: 1 to 64 letters"),
    ],
    ids=str,
)
def test_bad_words_are_refused(capsys, words, message):
    assert main(["rerun", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_sweeps_values_are_kept_out(trained, work, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(work / "parameters.yaml"))
    text, _ = rerun(capsys, trained.path.parent, code=2)
    assert "WANDB_SWEEP_PARAM_PATH is set: a sweep's values would outweigh the record's" in text


def test_without_train_py_it_says_where_it_looked(trained, work):
    package = work / "site/lowrank"
    shutil.copytree(ROOT / "lowrank", package, ignore=shutil.ignore_patterns("__pycache__"))
    program = "import sys; from lowrank.cli import main; sys.exit(main())"

    def run():
        words = [sys.executable, "-c", program, "rerun", str(trained.path.parent), "--epochs=0"]
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        words += ["--output_dir=runs"]
        return subprocess.run(
            words, cwd=work, env=environment, capture_output=True, text=True, check=False
        )

    result = run()
    assert (result.returncode, result.stdout) == (2, "")
    assert f"there is no train.py in {package.parent} or {work}" in result.stderr
    shutil.copy(ROOT / "train.py", work)
    assert run().returncode == 0


# Where data and results lie


@pytest.fixture
def images(tmp_path):
    """A folder of a few images of two classes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.usefixtures("work")
def test_the_data_is_found_where_it_was_or_where_it_is_said_to_be(images, capsys):
    flags = ("--dataset=imagefolder", f"--data_dir={images}", "--tracking=disabled", "--run_id=a")
    assert train([*without("train_size"), *flags]) == 0
    text, new = rerun(capsys, "runs/a", "--check")
    assert f"note: data_dir={images} as recorded, nothing is downloaded" in text
    assert "bitwise identical" in text
    assert (new.config["data_dir"], new.config["download"]) == (str(images), False)

    moved = images.rename(images.with_name("moved"))
    text, _ = rerun(capsys, "runs/a", code=2)
    assert f"note: data_dir={images} is not here, data is used" in text
    assert "dataset=imagefolder: data_dir=data is not a folder" in text
    text, new = rerun(capsys, "runs/a", "--check", f"--data_dir={moved}")
    assert "bitwise identical" in text


@pytest.mark.usefixtures("work")
def test_a_text_is_found_in_its_file(tmp_path, capsys):
    text = tmp_path / "book.txt"
    text.write_text("One may learn a little of this text. " * 40)
    flags = ["--model=gpt", "--gpt_depth=1", "--gpt_heads=1", "--gpt_width=8", "--context=8"]
    flags += ["--epochs=1", "--device=cpu", "--threads=1", "--tracking=disabled", "--run_id=a"]
    assert train([*flags, "--dataset=text", f"--data_dir={text}"]) == 0
    told, _ = rerun(capsys, "runs/a", "--check")
    assert f"note: data_dir={text} as recorded" in told
    assert "bitwise identical" in told


def test_nothing_is_written_where_only_the_record_says(trained, work, capsys):
    stranger = work / "stranger"
    copy = rewritten(
        trained, work / "copies/elsewhere", config={"output_dir": str(stranger), "dataset": "mnist"}
    )
    text, _ = rerun(capsys, copy / "record.sqlite", "--download=False", "--epochs=0", code=2)
    assert not stranger.exists()
    assert "mnist" in text


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "x" * 5000], ids=["no user", "long"])
def test_a_data_dir_that_cannot_be_is_not_here(trained, work, capsys, path):
    config = {"data_dir": path, "dataset": "mnist"}
    copy = rewritten(trained, work / "runs/a", config=config)
    text, _ = rerun(capsys, copy, "--download=False", code=2)
    assert "is not here, data is used" in text


# The record that W&B holds


@pytest.mark.usefixtures("work")
def test_a_run_that_wandb_holds_is_repeated(wandb_server, capsys):
    flags = ("--tracking=online", "--project=ranks", "--run_id=a", "--group=decay")
    assert train([*TINY, *flags, "--output_dir=there"]) == 0
    text, new = rerun(capsys, "tester/ranks/a", "--check", "--run_id=b")
    assert "bitwise identical" in text
    assert new.path.parent.parent == Path("runs")
    held = wandb_server.run("b")
    assert (held.project, held.details["groupName"]) == ("ranks", "decay")
    assert held.details["tags"] == ["rerun", "a"]
    config = yaml.safe_load((new.path.parent / "config.yaml").read_text())
    assert config["output_dir"] == Config().output_dir
