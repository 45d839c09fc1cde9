"""A run that trained in a pack, again: with its pack bit for bit, or alone and said to be so."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from lowrank.runs.find import load_run
from tests.launch.reruns.helpers import TINY, rerun, rewritten
from train import main

OWN = {"a": ["--lr=0.1"], "b": ["--lr=0.2", "--seed=4"], "c": ["--momentum=0.9"]}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """The output directory of a pack, which no test changes."""
    place = tmp_path_factory.mktemp("originals")
    train(place)
    return place


def train(place, ids="abc"):
    flags = (*TINY, "--tracking=disabled", f"--output_dir={place}")
    members = [["--", *flags, f"--run_id={name}", *OWN[name]] for name in ids]
    assert main([word for member in members for word in member][1:]) == 0


@pytest.fixture
def copy(pack, work):
    """A copy of it."""
    shutil.copytree(pack, work / "runs")
    return work / "runs"


def test_a_member_is_checked_with_its_whole_pack_bit_for_bit(copy, capsys):
    text, new = rerun(capsys, copy / "b", "--check", "--run_id=again")
    for name in "abc":
        assert f"check: {name}: bitwise identical: 3 epochs, " in text
    assert new.id == "again"
    assert new.config["lr"] == 0.2
    assert new.config["tags"] == ["rerun", "b"]
    assert new.environment["pack"]["index"] == 1
    assert len(list(copy.iterdir())) == 6
    assert "note: " not in text


def test_one_flipped_bit_of_any_member_is_found(pack, copy, capsys):
    def change(epoch, _, spectra):
        if epoch == 2:
            spectra["linear1"].view(np.uint64)[0] ^= np.uint64(1)

    shutil.rmtree(copy / "c")
    rewritten(load_run(pack / "c"), copy / "c", change=change)
    text, _ = rerun(capsys, copy / "a", "--check", code=1)
    assert "check: a: bitwise identical: " in text
    assert "check: c: differs from epoch 2 on; 2 epochs before it are bitwise identical" in text


WHY_NOT = {
    "deleted": "its member c is not beside it",
    "elsewhere": "its directory, beside which the others are, is not here",
    "another pack": "c did not train with these from its beginning to its end",
    "damaged": "c/record.sqlite",
}


@pytest.mark.parametrize("why", WHY_NOT)
def test_where_the_pack_cannot_be_repeated_a_line_says_why_not(copy, work, capsys, why):
    place = copy / "b"
    if why == "elsewhere":
        place = shutil.copy(copy / "b/record.sqlite", work / "record.sqlite")
    elif why == "damaged":
        (copy / "c/record.sqlite").write_bytes(b"nothing")
    else:
        shutil.rmtree(copy / "c")
    if why == "another pack":
        train(copy, "c")
    text, new = rerun(capsys, place, "--check", code=1)
    (line,) = [line for line in text.splitlines() if line.startswith("note: b trained in a pack ")]
    assert line.startswith("note: b trained in a pack of 3; ")
    assert WHY_NOT[why] in line
    assert line.endswith("it trains alone now, where sums are rounded in another order, which "
        "grows while it trains")  # fmt: skip
    assert "check: differs from epoch " in text
    assert "pack" not in new.environment
    original = load_run(copy / "b")
    for layer, spectra in original.spectra.items():
        assert new.spectra[layer][0].tobytes() == spectra[0].tobytes()
        np.testing.assert_allclose(new.spectra[layer], spectra, rtol=1e-4)


def test_without_check_a_member_trains_alone_and_is_told_so(copy, capsys):
    text, new = rerun(capsys, copy / "b")
    assert "note: b trained in a pack of 3; --check trains the whole pack; it trains alone" in text
    assert "pack" not in new.environment
    assert len(list(copy.iterdir())) == 4


def test_a_pack_of_a_foreign_record_names_no_path(trained, work, capsys):
    for members in (["../a", "a"], "a", [1, "a"], ["a"] * 2, {"a": 1}):
        shutil.rmtree(work / "runs", ignore_errors=True)
        environment = {"pack": {"id": "x", "size": 2, "index": 0, "members": members}}
        place = rewritten(trained, work / "runs/a", environment=environment)
        text, _ = rerun(capsys, place, "--check")
        assert "check: bitwise identical: " in text
        assert "Traceback" not in text
