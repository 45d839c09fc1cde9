"""Command lines, configurations and sweep files that nobody means well with.

What each mistake is answered with is in tests/config and tests/commands; here is that any input at
all is answered.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train
from benchmarks.resident import forget_peak, resident
from lowrank import cli
from lowrank.cli import COMMANDS
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.config.sweepfile import load_sweep_file
from lowrank.runs.directory import open_run_directory
from tests.hostile.calls import EVIL, answer, check, same, texts

VALUES = st.sampled_from(
    ["", "1", "-1", "0", "nan", "1e999", "9" * 5000, "None", "True", "[", "{", "[[[[[[[1]]]]]]]",
     "a,b", "..", "/", "/dev/null", "/dev/zero", "x" * 300, "x/" * 3000, EVIL, "e/p", "e/p/s",
     "{a: 1}", "&a [*a, *a]", "!!python/object/apply:os.system [id]", "sqlite:///x", "\udcff"]
)  # fmt: skip
FLAGS = {
    "data": ["data_dir", "train_size", "image_size"],
    "sweep": ["gpus", "per_gpu", "storage", "count", "search_seed", "max_retries", "heartbeat",
              "lr"],
    "agent": ["gpus", "per_gpu", "count", "output_dir", "max_failures", "stagger"],
    "runs": ["sweep", "csv", "json"],
    "figures": ["kind", "by", "columns", "x", "y", "contours", "epoch", "where", "epsilon",
                "rank_norm", "sweep", "output", "format", "width", "height", "dpi", "csv",
                "layer", "every", "published"],
    "published": ["rank_tolerance", "accuracy_tolerance", "epsilon", "instead", "csv", "markdown"],
    "report": ["output", "sweep", "runs"],
    "dashboard": ["sweep", "by", "name"],
    "rerun": ["check", "docker", "image", "lr", "run_id", "output_dir"],
    "sync": ["nothing"],
    "spectra": ["key", "model", "epsilons", "rank_norm", "quantities", "json", "csv", "plot",
                "truncate", "data_dir"],
    "compress": ["energy", "share", "output", "data_dir"],
}  # fmt: skip
ALWAYS = {  # what keeps a valid command from its work: a server, a download, hours
    "data": ["--download=False"],
    "sweep": ["--dry_run"],
    "agent": ["--per_gpu=0"],
    "dashboard": ["--dump=-"],
}


def flags(names: list[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda n, v: f"--{n}={v}", st.sampled_from(names), VALUES | texts)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(sorted(FLAGS)))
    words = draw(st.lists(flags(FLAGS[name]) | VALUES | texts, max_size=4))
    return [name, *words, *ALWAYS.get(name, [])]


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """What a command writes after all, it writes here."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("place"))
    yield
    os.chdir(before)


def test_every_subcommand_is_given_hostile_words():
    # A new subcommand needs its flags above, and perhaps a word that keeps it from its work.
    assert set(FLAGS) >= set(COMMANDS)


@same(150)
@given(words=command_lines())
def test_any_words_of_a_subcommand_are_answered(words):
    check(*answer(cli.main, words))


@same(60)
@given(words=st.lists(texts | VALUES, max_size=3))
def test_any_subcommand_is_answered(words):
    if words[:1] and words[0] not in COMMANDS:
        code, out, err = answer(cli.main, words)
        check(code, out, err)
        assert code == 2 or words[0] in ("-h", "--help")


@same(150)
@given(words=st.lists(flags([*Config.model_fields, "config", "cofnig"]) | texts, max_size=4))
def test_any_words_of_train_are_answered(words):
    # Imagefolder in a directory without images: what is valid ends before it trains.
    more = ["--dataset=imagefolder", "--tracking=disabled", "--nonsense=1"]
    code, out, err = answer(train.main, [*words, *more])
    check(code, out, err)
    assert code == 2 or {"-h", "--help"} & set(words)


YAML = st.text("abnor1:{}[],-&*!|>%@`'\"#?~<\t\n \0\x1b\x85\u2028\ufeff", max_size=60) | texts
PIECES = st.sampled_from(
    ["lr: 0.1", "lr: [1, [2, [3]]]", "? [a]\n: b", "<<: {a: 1}", "a: &x 1", "b: *x", "--- a",
     "!!python/name:os.system", "!!binary aGk=", "%YAML 9.9", "1: 2", "~: ~", "? \n? ",
     "lr: 0x" + "f" * 3000, "epochs: " + "9" * 5000, "a: 1:" + "00:" * 400 + "0",
     "date: 2026-01-01", "x: " + "[" * 900, "'\\0': 1", '"\\ud800": 1', "- " * 900]
)  # fmt: skip
documents = st.lists(PIECES | YAML, max_size=4).map("\n".join)


@same(150)
@given(text=documents)
def test_any_configuration_file_is_answered(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for given_ in (str(path), "{" + text):
        code, out, err = answer(train.main, [f"--config={given_}", "--nonsense=1"])
        check(code, out, err)
        assert code == 2


@same(100)
@given(text=documents, parameters=documents)
def test_any_sweep_file_is_answered(tmp_path_factory, text, parameters):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    indented = parameters.replace("\n", "\n    ")
    head = "program: train.py\nmethod: grid\nparameters:\n  lr:\n    "
    for content in (text, f"{head}{indented}", f"{head}value: 0.1\n{text}"):
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        check(*answer(cli.main, ["sweep", str(path), "--dry_run"]))


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


FILES: dict[str, Callable[[Path], object]] = {
    "a pipe without a writer": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a loop of links": lambda path: path.symlink_to(path.name),
    "a directory": Path.mkdir,
    "a billion laughs": lambda path: path.write_text(laughs(40)),
    "a file of a terabyte": sparse,
    "deep nesting": lambda path: path.write_text("a: " + "[" * 9000),
    "deep indentation": lambda path: path.write_text("".join(" " * i + "a:\n" for i in range(180))),
    "a function of Python": lambda path: path.write_text(
        "lr: !!python/object/apply:os.system ['touch hacked']"
    ),
    "no UTF-8": lambda path: path.write_bytes(b"\xff\xfe\0\xd8lr: 1"),
    "a huge number": lambda path: path.write_text("lr: " + "9" * 15_000),
    "many keys": lambda path: path.write_text("\n".join(f"k{i}: 1" for i in range(2000))),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_nobody_should_wait_for_is_refused_at_once(tmp_path, case):
    path = tmp_path / "x.yaml"
    FILES[case](path)
    torch.save({"a.weight": torch.eye(2)}, tmp_path / "x.pt")
    before = forget_peak()
    for main, words in (
        (train.main, [f"--config={path}"]),
        (cli.main, ["sweep", str(path), "--dry_run"]),
        (cli.main, ["figures", str(tmp_path), f"--sweep={path}"]),
        (cli.main, ["spectra", str(tmp_path / "x.pt"), f"--model={path}"]),
    ):
        code, out, err = answer(main, words)
        check(code, out, err)
        assert code == 2
    assert resident() - before < 100
    assert not Path("hacked").exists()


IDS = ["../x", "/tmp/x", "a/b", "..", ".", "a\0b", "a\nb", "~root", "a b", "x" * 65, "ä", "\udcff"]


@pytest.mark.parametrize("given_by", ["flag", "file", "WANDB_RUN_ID", "LOWRANK_RUN_ID", "sweep"])
@pytest.mark.parametrize("run_id", IDS)
def test_no_run_id_leaves_the_output_directory(tmp_path, given_by, run_id):
    words, environ = [], {}
    if given_by == "flag":
        words = [f"--run_id={run_id}"]
    elif given_by == "file":
        words = ["--config", f"{{run_id: '{run_id}'}}"]
    elif given_by == "sweep":
        file = tmp_path / "sweep.yaml"
        text = f"wandb_version: 1\nrun_id:\n  value: '{run_id}'\n"
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        environ = {"WANDB_SWEEP_PARAM_PATH": str(file)}
    else:
        environ = {given_by: run_id}
    with pytest.raises(InputError):
        parse(words, environ)


def test_a_linked_run_directory_is_its_owners_choice(tmp_path):
    # Who may make links in output_dir may write there; no id, name or server can make one.
    elsewhere = tmp_path / "scratch"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to(elsewhere)
    config = Config(run_id="a", output_dir=str(tmp_path / "runs"))
    refused = pytest.raises(InputError, match="holds precious but no config")
    with refused, open_run_directory(config):
        pass
    (elsewhere / "precious").unlink()
    with open_run_directory(config) as directory:
        assert directory.path.resolve() == elsewhere
    assert (tmp_path / "runs" / "a").is_symlink()


def test_a_name_of_a_sweep_is_no_path(tmp_path):
    text = "program: train.py\nmethod: grid\nname: {}\nparameters: {{lr: {{value: 0.1}}}}\n"
    for name in ("../../x", "/tmp/x", "..", "a/b"):
        (tmp_path / "x.yaml").write_text(text.format(name))
        words = ["sweep", str(tmp_path / "x.yaml"), f"--output_dir={tmp_path / 'runs'}"]
        code, out, err = answer(cli.main, [*words, "--count=0"])
        check(code, out, err)
        assert {path.name for path in tmp_path.iterdir()} <= {"x.yaml", "runs"}
        assert load_sweep_file(tmp_path / "x.yaml").name == name


def test_the_process_itself_answers_bytes_that_are_no_text(tmp_path):
    for words in ([b"--name=\xff\x1b[31m"], [b"--config=\xff.yaml"], [b"\xff\xfe"]):
        program = [sys.executable, str(Path(train.__file__)), *words]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr
        assert b"\x1b" not in done.stderr
