"""Where a run comes from and what is different here: every line, caused for real.

The present is this process's own environment; the original's is a real one in which one part was
changed, or that of another directory, thread count or image.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.launch.reruns.origin import facts, summary, warnings
from lowrank.runs.environment import describe_code, describe_environment
from tests.launch.reruns.helpers import differing, rerun, rewritten
from tests.runs.test_environment import checkout, git  # noqa: F401  # a fixture

VERSIONS = ("python", "torch", "torchvision", "numpy", "wandb", "lowrank")


@pytest.fixture
def here():
    described = describe_environment(device="cpu", threads=1, argv=["train.py"])
    return {**described, "commit": "c" * 40, "diff": ""}


def test_where_nothing_differs_nothing_is_said(here):
    assert warnings([here], here) == []
    assert warnings([here, here], here) == []


@pytest.mark.parametrize("package", VERSIONS)
def test_another_version_is_a_line(here, package):
    there = {**here, "versions": {**here["versions"], package: "0.0.1"}}
    assert warnings([there], here) == [
        f"warning: {package}: 0.0.1 in the original, {here['versions'][package]} here"
    ]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("device", "cuda:0", "device: cuda:0 in the original, cpu here"),
        ("device_name", "NVIDIA H100", "processor: NVIDIA H100 in the original, "),
        ("threads", 3, "threads: 3 in the original, 1 here"),
        ("image", "lowrank:1.0", "image: lowrank:1.0 in the original, none here"),
        ("commit", "0123abc" * 5, "commit: 0123abc0123abc0123abc0123abc0123abc in the original, "),
    ],
)
def test_each_other_part_is_a_line(here, name, value, shown):
    (line,) = warnings([{**here, name: value}], here)
    assert line.startswith(f"warning: {shown}")
    assert ("; git checkout 0123abc" in line) == (name == "commit")


def test_commits_and_uncommitted_changes_are_those_of_git(here, checkout):  # noqa: F811
    first = {**here, **describe_code(checkout)}
    (checkout / "train.py").write_text("lr = 0.2\n")
    changed = {**here, **describe_code(checkout)}
    (line,) = warnings([first], changed)
    assert line.startswith("warning: uncommitted changes: none in the original, 7 lines of diff, ")
    (line,) = warnings([changed], first)
    assert line.endswith("none here; the original's are its record's environment['diff']")
    assert warnings([changed], changed) == []
    (checkout / "train.py").write_text("lr = 0.3\n")
    (line,) = warnings([changed], {**here, **describe_code(checkout)})
    assert line.count("7 lines of diff, CRC-32 ") == 2
    git(checkout, "commit", "--quiet", "--all", "--message=second")
    second = {**here, **describe_code(checkout)}
    (line,) = warnings([first], second)
    assert line == (
        f"warning: commit: {first['commit']} in the original, {second['commit']} here; "
        f"git checkout {first['commit']} brings the original's code back"
    )


def test_an_image_without_git_is_the_same_as_itself_and_another_is_not(here, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRANK_COMMIT", "a" * 40)
    inside = {**here, **describe_code(tmp_path), "image": "lowrank:1"}
    assert inside["diff"] is None
    assert warnings([inside], inside) == []
    (line,) = warnings([inside], {**inside, "image": "lowrank:2"})
    assert line == "warning: image: lowrank:1 in the original, lowrank:2 here"


def test_what_is_not_recorded_is_said(here):
    lines = warnings([{}], here)
    assert len(lines) == len(facts(here))
    assert all("unknown in the original" in line for line in lines)
    assert warnings([], here) == lines


def test_a_run_of_several_processes_shows_all_of_them(here):
    before = {**here, "versions": {**here["versions"], "torch": "2.11.0"}}
    (line,) = warnings([before, here], here)
    assert line.startswith("warning: torch: 2.11.0, then ")
    assert "torch 2.11.0, then " in "\n".join(summary([before, here]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("commit", "diff", "versions", "device", "device_name", "threads", "image")


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
@settings(deadline=None)
def test_an_odd_environment_is_told_in_printable_lines(environment):
    environment = json.loads(json.dumps(environment))
    for line in [*summary([environment]), *warnings([environment], {})]:
        assert line.isprintable()
        assert len(line) < 800


def test_the_command_prints_them_before_it_trains(trained, work, capsys):
    environment = {"threads": 7, "versions": {**trained.environment["versions"], "torch": "1.0"}}
    copy = rewritten(trained, work / "runs/a", environment=environment, sessions=2)
    text, _ = rerun(capsys, copy)
    lines = text.splitlines()
    assert lines[0].startswith("rerun of a (finished, 3 epochs): ")
    told = differing(text)
    assert [line.split(":")[1] for line in told] == [" torch", " threads"]
    assert told[1] == "warning: threads: 1, then 7 in the original, 1 here"
    assert lines.index(told[-1]) < lines.index(next(line for line in lines if "mlp of" in line))
    described = "\n".join(lines[:4])
    commit = trained.environment["commit"] or "unknown"
    for part in (f"commit {commit}", trained.environment["device_name"], "image none"):
        assert part in described
    for package, version in trained.environment["versions"].items():
        assert f"{package} {version}" in described or package == "torch"
