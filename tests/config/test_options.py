"""A command's options: one reader for all commands and train.py, and a help that says it all.

What is read is compared with what was typed; what the help says with the models themselves.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

import lowrank.commands
from lowrank import cli
from lowrank.cli import COMMANDS, main, options_of
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.config.options import Options, option, settings, word


class Every(Options):
    """A flag of every kind."""

    files: tuple[str, ...] = word("FILE", "which", "which file?")
    number: int = option(3, "a number; default {default}", "N", ge=1)
    fraction: float | None = option(None, "a fraction", "F", "a number from 0 to 1", ge=0, le=1)
    switch: bool = option(False, "a switch")
    both: bool | str = option(False, "a switch or a text", "[=TEXT]")
    output: str = option("here", "a place; default {default}", "P", "a path", short="o")
    given: dict[str, str] = settings("a field", seed="not here")


@pytest.mark.parametrize("words", [["--number=7"], ["--number", "7"], ["--number=7.0"]])
def test_a_value_stands_behind_its_flag_or_an_equals_sign(words):
    assert Every.read(["a", *words, "b"]) == Every(files=("a", "b"), number=7)


@pytest.mark.parametrize(
    ("words", "switch"),
    [
        (["--switch"], True),
        (["--switch", "a"], True),
        (["--switch=no"], False),
        (["--switch", "false"], False),
        (["--switch", "ON"], True),
    ],
)
def test_a_boolean_needs_no_value_and_takes_one(words, switch):
    assert Every.read(["x", *words]).switch is switch


def test_the_same_words_mean_the_same_to_train_and_to_a_command():
    for words in (["--batch_norm", "False"], ["--batch_norm=False"], ["--batch_norm", "no"]):
        assert parse(words, {}).batch_norm is False
        for command, place in (("sweep", "overrides"), ("rerun", "given")):
            text = getattr(options_of(command).read(["x", *words]), place)["batch_norm"]
            assert Config(batch_norm=text).batch_norm is False


def test_a_switch_may_be_given_a_text_and_is_not_given_the_next_word():
    assert Every.read(["x", "--both"]).both is True
    assert Every.read(["--both", "x"]) == Every(files=("x",), both=True)
    assert Every.read(["x", "--both=none"]).both == "none"
    assert Every.read(["x", "--both=False"]).both is False


@pytest.mark.parametrize("words", [["-o", "p"], ["-o=p"], ["--output=p"], ["--output", "p"]])
def test_a_short_flag_stands_for_a_long_one(words):
    assert Every.read(["x", *words]).output == "p"


def test_all_mistakes_are_told_at_once():
    words = ["--numbr=1", "--number=0", "--fraction=2", "--switch=maybe", "--output=", "--lr=x"]
    with pytest.raises(InputError) as caught:
        Every.read([*words, "--seed=1", "--lr=3"])
    assert caught.value.lines == [
        "unknown flag '--numbr=1', did you mean 'number'?",
        "lr: given twice; allowed: once",
        "which file?",
        "output: no value after --output; allowed: a path",
        "seed: not here",
        "number: got '0'; allowed: a whole number of at least 1",
        "fraction: got '2'; allowed: a number from 0 to 1",
        "switch: got 'maybe'; allowed: True or False",
        "lr: got 'x' from --lr; allowed: a finite number above 0",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_shows_every_flag_with_its_default(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[2:])) <= 80
    for name, field in options_of(command).model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or "allowed" not in extra or command == "data":
            continue
        flag = f"--{field.alias or name}"
        after = text.partition(f"{flag}=")[2] or text.partition(flag)[2]
        assert after, flag
        if field.default not in (None, False, "", ()) and field.default != {}:
            shown = field.default if isinstance(field.default, tuple) else (field.default,)
            entry = after.partition("\n--")[0]
            for value in shown:
                words = [f"{value:g}" if isinstance(value, float) else str(value)]
                words += [f"{value:.0e}".replace("e-0", "e-")] if isinstance(value, float) else []
                assert any(word in entry for word in words), (flag, value)


def test_a_command_is_one_file_and_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "greet.py").write_text(
        "from lowrank.config.options import Options, option, word\n"
        "class Greet(Options):\n"
        "    name: str = word('NAME', 'whom to greet', 'whom?')\n"
        "    times: int = option(1, 'how often; default {default}', 'N', ge=1)\n"
        "def run(options):\n"
        "    print(*[options.name] * options.times)\n"
        "    return 0\n"
    )
    monkeypatch.setattr(lowrank.commands, "__path__", [*lowrank.commands.__path__, str(tmp_path)])
    monkeypatch.setitem(cli.COMMANDS, "greet", cli.Command("NAME [--times=N]", "Greets."))
    assert main(["greet", "Ada", "--times", "2"]) == 0
    assert capsys.readouterr().out == "Ada Ada\n"
    assert main(["greet", "--times=0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "lowrank: whom?",
        "lowrank: times: got '0'; allowed: a whole number of at least 1",
    ]
    assert main(["greet", "--help"]) == 0
    assert capsys.readouterr().out == (
        "usage: lowrank greet NAME [--times=N]\n\nGreets.\n\n"
        "NAME             whom to greet\n"
        "--times=N        how often; default 1\n\n"
    )
    assert main(["--help"]) == 0
    assert "  lowrank greet NAME [--times=N]\n      Greets.\n" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=str)
def test_no_help_loads_what_trains_or_draws(words):
    program = (
        "import sys; from lowrank.cli import main; code = main(sys.argv[1:]);"
        "print(*{'torch', 'numpy', 'wandb', 'matplotlib', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ""
