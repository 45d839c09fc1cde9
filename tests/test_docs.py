"""Every Python example of docs/*.md and of README.md runs and prints what stands below it.

The examples of one file share one namespace, from top to bottom, in a directory of their own. A
``text`` block directly below an example is what it prints. A comment above an example says where
else it is run: ``<!-- test: slow -->`` and ``<!-- test: torchrun -->`` by slow tests here,
``<!-- test: recipes -->`` in callbacks/, ``<!-- test: added … -->`` in test_extending.py,
``<!-- test: program -->`` in test_day.py.
Run with ``pytest tests/test_docs.py``.
"""

from __future__ import annotations

import contextlib
import io
import os
import pydoc
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import wandb

from lowrank import cli
from lowrank.watch import LoggingWatcher

ROOT = Path(__file__).resolve().parent.parent
TEXTS = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
FILES = [path for path in TEXTS if "```python" in path.read_text(encoding="utf-8")]
NAMES = sorted({
    name
    for path in TEXTS
    for name in re.findall(r"`(lowrank(?:\.\w+)+)", path.read_text(encoding="utf-8"))
})  # fmt: skip
BLOCK = re.compile(
    r"(?:<!-- test: (?P<kind>[^\n]*) -->\n)?^```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    flags=re.DOTALL | re.MULTILINE,
)
KINDS = {"", "slow", "torchrun", "recipes", "added", "program"}


@dataclass(frozen=True)
class Example:
    """One block of Python: its line in the file, what is special, and what it prints."""

    file: Path
    line: int
    kind: str
    code: str
    output: str | None


def examples(file):
    text = file.read_text(encoding="utf-8")
    return [
        Example(
            file,
            text[: match.start("code")].count("\n"),
            (match["kind"] or "").partition(" ")[0],
            match["code"],
            match["output"],
        )
        for match in BLOCK.finditer(text)
    ]


def run(example, namespace):
    """Runs an example as its file's, so that a traceback shows the line of the document."""
    code = compile("\n" * example.line + example.code, str(example.file), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    if example.output is not None:
        assert printed.getvalue() == example.output, f"{example.file.name}:{example.line}"


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty working directory, W&B's too; torch's generator is left as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()  # it would go on with the settings that it began with
    with torch.random.fork_rng():
        yield tmp_path


@pytest.fixture
def namespace():
    """What the examples of one file share; watchers that are left open are closed."""
    names = {"__name__": "__main__"}
    yield names
    for value in names.values():
        if isinstance(value, LoggingWatcher):
            value.close()


def test_every_python_block_is_found_and_of_a_known_kind():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert len(examples(file)) == len(re.findall(r"^\s*```\s*py", text, flags=re.MULTILINE))
        assert {example.kind for example in examples(file)} <= KINDS, file.name


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_a_document_mentions_exists(name):
    assert pydoc.locate(name) is not None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
@pytest.mark.usefixtures("directory")
def test_the_examples_run(file, namespace):
    if "runs/ID" in file.read_text(encoding="utf-8"):  # the reader's run
        import train

        options = ["--run_id=ID", "--epochs=1", "--train_size=100", "--width=10", "--directions=3"]
        options.append("--measure_every_steps=2")
        assert train.main([*options, "--tracking=disabled"]) == 0
    if "load_compressed" in file.read_text(encoding="utf-8"):
        assert cli.main(["compress", "runs/ID", "--share=0.2"]) == 0
    plain = [example for example in examples(file) if not example.kind]
    assert plain
    for example in plain:
        run(example, namespace)


@pytest.mark.slow
@pytest.mark.usefixtures("directory")
def test_the_slow_examples_run(namespace):
    found = [example for file in FILES for example in examples(file) if example.kind == "slow"]
    assert found
    for file in {example.file for example in found}:
        for example in examples(file):
            if example.kind in ("", "slow"):
                run(example, namespace)


@pytest.mark.slow
def test_the_distributed_examples_run(directory):
    found = [example for file in FILES for example in examples(file) if example.kind == "torchrun"]
    assert found
    for example in found:
        (directory / "script.py").write_text(example.code, encoding="utf-8")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
        subprocess.run(
            [*torchrun, "--standalone", "--local-addr=127.0.0.1", "script.py"],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
    import lowrank

    assert lowrank.load_run("runs/ddp").epochs.tolist() == [0, 1, 2]


@pytest.mark.usefixtures("directory")
def test_two_lines_are_all_that_a_training_script_needs(namespace):
    """The first example of your_own_loop.md and the second, which gains two lines."""
    before, after = examples(ROOT / "docs" / "your_own_loop.md")[:2]
    lines = after.code.splitlines()
    added = [line for line in lines if line.endswith("  # added")]
    assert len(added) == 2
    assert [line for line in lines if line not in added] == before.code.splitlines()
    assert len(before.code.splitlines()) <= 30

    run(before, plain := {})
    run(after, namespace)
    for with_ranks, without in zip(
        namespace["model"].parameters(), plain["model"].parameters(), strict=True
    ):
        assert torch.equal(with_ranks, without)
    import lowrank

    recorded = lowrank.load_run("runs/digits")
    assert recorded.epochs.tolist() == [0, 1, 2, 3]
    assert recorded.metrics["rank_mean"][0] > 0
    assert recorded.metrics["test_accuracy"][-1] == namespace["accuracy"] > 0.5
