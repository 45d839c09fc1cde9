"""The table of benchmarks: what is written into files against what rows hold."""

from __future__ import annotations

import pytest

from benchmarks.table import Results, load, markdown, save, write_readme
from benchmarks.timing import Row, Spread
from lowrank.common.errors import Failure

FASTER = Row("spectra", "svdvals", "s", Spread(0.5, 0.1, 7), Spread(4, 0.2, 7), "speedup", 5)
MISSED = Row("memory", "plain loop", "MiB", Spread(220, 1, 3), Spread(100, 1, 3), "share", 1.1)
HELP = Row("help", "", "s", Spread(0.3, 0.01, 9), None, "absolute", 0.5)
ON_GPU = Row("spectra", "svdvals", "s", Spread(0.01, 0, 7), Spread(4, 0.2, 7), "speedup", 5)
CPU = {"one": Results("a machine", 12.0, [FASTER, HELP]), "two": Results("a machine", 3, [MISSED])}


def cells(text, what):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {what} |"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_results_survive_their_file(tmp_path):
    table = {"cpu": CPU, "cuda": {"one": Results("a GPU", 1.0, [ON_GPU])}}
    save(tmp_path / "results.json", table)
    assert load(tmp_path / "results.json") == table


def test_without_a_file_there_are_no_results(tmp_path):
    assert load(tmp_path / "results.json") == {"cpu": {}, "cuda": {}}


def test_a_line_holds_both_numbers_ratio_target_and_verdict():
    text = markdown({"cpu": CPU, "cuda": {}})
    ours = ["0.5 ± 0.1 s", "4 ± 0.2 s", "8×", "≥ 5×", "met"]
    assert cells(text, "spectra") == ["spectra", "svdvals", *ours, "", "", "", "", ""]
    assert cells(text, "memory")[2:7] == [
        "220 ± 1 MiB",
        "100 ± 1 MiB",
        "2.2",
        "≤ 1.1",
        "**missed**",
    ]
    assert cells(text, "help")[1:7] == ["–", "0.3 ± 0.01 s", "", "", "≤ 0.5 s", "met"]


def test_without_a_gpu_its_columns_are_empty_and_the_table_says_so():
    text = markdown({"cpu": CPU, "cuda": {}})
    assert "- GPU: none was available, its columns are empty." in text
    assert "- CPU: a machine." in text


def test_one_thing_on_both_devices_is_one_line():
    text = markdown({"cpu": CPU, "cuda": {"one": Results("a GPU", 1.0, [ON_GPU])}})
    assert cells(text, "spectra")[7:] == ["0.01 ± 0 s", "4 ± 0.2 s", "400×", "≥ 5×", "met"]
    assert cells(text, "memory")[7:] == [""] * 5


def test_programs_measured_at_different_places_are_told_apart():
    elsewhere = {**CPU, "two": Results("another machine", 3.0, [MISSED])}
    text = markdown({"cpu": elsewhere, "cuda": {}})
    assert "- CPU, one: a machine." in text
    assert "- CPU, two: another machine." in text


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- written by make bench -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):  # again: the same
        write_readme(readme, {"cpu": CPU, "cuda": {}})
        text = readme.read_text()
        assert text.startswith("before\n<!-- written by make bench -->\n| what |")
        assert text.endswith(".\n<!-- end -->\nafter\n")
        assert "old" not in text


def test_a_readme_without_marks_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(Failure, match="has no place for the table"):
        write_readme(readme, {"cpu": CPU, "cuda": {}})
    assert readme.read_text() == "nothing here\n"
