"""``lowrank data``: what it says of data sets, against the data sets."""

from __future__ import annotations

import hashlib

import pytest

from lowrank.cli import main


def test_a_text_needs_no_model(tmp_path, capsys):
    text = tmp_path / "book.txt"
    text.write_bytes(b"One may learn a little of this text. " * 40)
    assert main(["data", "text", f"--data_dir={text}", "--context=8"]) == 0
    said = capsys.readouterr().out
    assert hashlib.sha256(text.read_bytes()).hexdigest() in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["text", "--model=mlp"], "model=mlp reads images, which dataset=text does not hold"),
        (["pidoc"], "dataset: got 'pidoc'"),
        ([], "which data set?"),
    ],
)
def test_mistakes_are_told(words, said, capsys):
    assert main(["data", *words]) == 2
    assert said in capsys.readouterr().err
