"""The house: who imports whom, what imports cost, the README's tree and its commands.

The order of rooms is that of the README's tree, read from there; imports are read from the
syntax tree, also those within functions.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lowrank.cli import COMMANDS, options_of

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = re.search(r"```\n(train\.py .*?)```", README, flags=re.DOTALL)
assert TREE, "README.md shows the tree in a code block that begins with train.py"
ENTRIES = [line.rstrip() for line in TREE[1].splitlines() if line.strip()]
LIBRARY = ("measure", "measure.watcher", "measure.theory", "watch")


def in_package():
    """Returns the names below lowrank/ in the README's tree, from the lowest room up."""
    start = next(i for i, line in enumerate(ENTRIES) if line.startswith("lowrank/"))
    names = []
    for line in ENTRIES[start + 1 :]:
        if not line.startswith("  "):
            break
        names.append(line.split()[0].rstrip("/"))
    return names


WHERE = {  # what a stranger looks for: the words of one room's line, and a name of that room
    "the learning-rate schedule": ("learning-rate schedules", "training.schedule.learning_rate"),
    "the rank at ε": ("ranks", "measure.ranks.rank"),
    "W&B's histograms": ("histograms", "tracking.rows.RowLogger"),
    "a disk that is full": ("full disks", "runs.format.RecordWriteError"),
    "the heat map": ("heat maps", "views.figures.one_run.rank_heatmap"),
    "a sweep's retries": ("retries", "launch.sweeps.study.SweepStudy"),
    "downloading data": ("downloaded", "data.vision.load"),
    "padding images": ("padded", "data.sizes.pad"),
    "the rank bound": ("bounds", "measure.bounds.rank_bound"),
    "resuming a run": ("resume", "runs.directory.open_run_directory"),
}


@pytest.mark.parametrize(("words", "name"), WHERE.values(), ids=WHERE)
def test_a_stranger_finds_the_room_from_the_readmes_tree(words, name):
    (line,) = [line for line in ENTRIES if words in line.partition("  ")[2]]
    module, _, attribute = f"lowrank.{name}".rpartition(".")
    assert line.split()[0] == f"{name.split('.')[0]}/"
    assert getattr(importlib.import_module(module), attribute).__module__ == module


def imported(path):
    """Yields the modules of lowrank that a file imports, as names below the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lowrank":
            parts = (node.module or "").split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("lowrank."):
                    yield alias.name.split(".")[1]


BESIDE_THE_ROOMS = {"__init__.py", "__main__.py"}


def modules():
    top = ROOT / "lowrank"
    return sorted(
        path
        for path in top.rglob("*.py")
        if path.relative_to(top).as_posix() not in BESIDE_THE_ROOMS
    )


def room(path):
    return path.relative_to(ROOT / "lowrank").parts[0]


def test_the_readmes_tree_is_the_package():
    assert sorted(in_package()) == sorted({room(path) for path in modules()})


def test_the_readmes_tree_is_the_repository():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    shown = {line.split()[0].rstrip("/") for line in ENTRIES if not line.startswith(" ")}
    present = {name.split("/")[0] for name in listed}
    usual = {"CHANGELOG.md", "LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
    assert shown == {name for name in present if not name.startswith(".")} - usual


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_lower_ones(path):
    order = [name.removesuffix(".py") for name in in_package()]
    allowed = order[: order.index(room(path).removesuffix(".py")) + 1]
    assert not set(imported(path)) - set(allowed)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph():
    """Returns which modules of lowrank each imports, within functions and for types too."""
    paths = {module_name(path): path for path in (ROOT / "lowrank").rglob("*.py")}
    found = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found[name].add(inner if inner in paths else node.module)
    return {name: imports & paths.keys() - {name} for name, imports in found.items()}


def circles(imports):
    """Returns what is left when modules that import nothing left, or nothing imports, go."""
    left = dict(imports)
    while True:
        wanted = set().union(*left.values())
        ends = {name for name in left if name not in wanted or not left[name] & left.keys()}
        if not ends:
            return left
        left = {name: each - ends for name, each in left.items() if name not in ends}


def test_no_module_imports_itself_by_way_of_others():
    assert circles({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}).keys() == {"b", "c"}
    assert not circles(graph())


def test_the_package_never_imports_the_entry_point():
    for path in modules():
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "train" not in names, path


def test_the_library_needs_only_torch_and_numpy():
    # torch itself imports some of these where it can; what counts is what we add to that.
    program = (
        "import importlib, sys, torch, numpy; before = set(sys.modules)\n"
        f"for name in {LIBRARY}: importlib.import_module('lowrank.' + name)\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    added = set(subprocess.check_output([sys.executable, "-c", program], text=True).split())
    allowed = sys.stdlib_module_names | {"lowrank", "torch", "numpy"}
    assert not {name for name in added if not name.startswith("_")} - allowed


def test_importing_the_package_loads_nothing():
    program = "import sys, lowrank; print(*sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == []


@pytest.mark.parametrize(
    "name", ["Run", "Watcher", "describe", "load_run", "load_sweep", "watch", "weight_matrices"]
)
def test_public_names_are_found(name):
    import lowrank

    assert name in dir(lowrank)
    assert callable(getattr(lowrank, name))


def test_an_unknown_public_name_is_an_attribute_error():
    import lowrank

    with pytest.raises(AttributeError, match="has no attribute 'wacth'"):
        lowrank.wacth  # noqa: B018  # the look-up is what is tested


def shell_lines(text=README):
    """Returns the commands of a document's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*$", "", line) for line in lines if line and not line.startswith("#")]


def test_the_readme_shows_the_two_commands():
    assert {"make demo", "make test"} <= set(shell_lines())


def test_every_make_target_of_the_readme_exists():
    targets = {line.split()[1] for line in shell_lines() if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def train_commands():
    return [line for line in shell_lines() if line.startswith("python train.py")]


@pytest.mark.parametrize("line", train_commands())
def test_the_readmes_training_commands_are_valid(line, tmp_path, monkeypatch):
    from lowrank.config.arguments import help_text, parse

    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[2:]
    if words == ["--help"]:
        assert help_text()
        return
    for word in words:
        if word.endswith("config.yaml"):
            (tmp_path / word).parent.mkdir(parents=True)
            (tmp_path / word).write_text("lr: 0.1\n")
    assert parse(words, {})


def test_a_training_command_of_the_readme_runs(tmp_path):
    (line,) = [line for line in train_commands() if "--epochs=2" in line]
    words = [sys.executable, str(ROOT / "train.py"), *line.split()[2:]]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "finished" in result.stdout


def lowrank_commands():
    texts = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
    lines = [line for text in texts for line in shell_lines(text)]
    return sorted({line for line in lines if line.startswith("lowrank ")})


@pytest.mark.parametrize("line", lowrank_commands())
def test_the_lowrank_commands_of_readme_and_docs_are_valid(line, monkeypatch):
    monkeypatch.chdir(ROOT)  # where the sweep files are
    name, *words = shlex.split(line)[1:]
    assert options_of(name).read(words)


def test_every_subcommand_is_shown():
    assert {line.split()[1] for line in lowrank_commands()} >= COMMANDS.keys() - {"data", "spectra"}
    assert all(f"lowrank {name}" in README for name in COMMANDS)
