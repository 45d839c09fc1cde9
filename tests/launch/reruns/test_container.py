"""``lowrank rerun --docker``: the command, its guards, and a whole rerun behind a stand-in docker.

The stand-in is a program of that name on PATH. It notes its words and then does what an engine
would do with them, but for the image: it runs this checkout's lowrank instead.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.cli import main
from lowrank.common.errors import InputError
from lowrank.launch.reruns.container import container, image_of
from lowrank.runs.find import load_run
from tests.launch.reruns.helpers import ROOT, interrupted, rewritten

IMAGE = "registry.example.org:5000/ann/lowrank:1.0"

DOCKER = """\
#!{python}
import json, os, sys
words = sys.argv[1:]
with open({log!r}, "w") as file:
    json.dump(words, file)
if {code}:
    sys.exit({code})
place = words.index({image!r})
for word in words[:place]:
    name, _, value = word.removeprefix("--env=").partition("=")
    if word.startswith("--env=") and value:
        os.environ[name] = value
os.environ["PYTHONPATH"] = {root!r}
program = "import sys; from lowrank.cli import main; sys.exit(main())"
os.execv(sys.executable, [sys.executable, "-c", program, *words[place + 1 :]])
"""


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Puts a stand-in on PATH; returns a function that gives it an exit code, and its words."""
    log = tmp_path / "words.json"
    place = tmp_path / "bin"
    place.mkdir()

    def make(code=0, image=IMAGE):
        values = {"python": sys.executable, "log": str(log), "code": code, "image": image}
        (place / "docker").write_text(DOCKER.format(**values, root=str(ROOT)))
        (place / "docker").chmod(0o755)

    make()
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    return make, lambda: json.loads(log.read_text())


@pytest.fixture
def recorded(trained, work):
    """Makes a copy of the run that names an image."""

    def make(name="runs/a", image=IMAGE, config=None, **environment):
        environment = {"image": image, **environment}
        return load_run(rewritten(trained, work / name, environment=environment, config=config))

    return make


def words_of(run, **given):
    local = run.path.parent
    return container(run, image_of(run), given, local=local, check=True).words


def mounts(words):
    """Returns source, target and options of each mount, as docker reads them."""
    lines = [word.removeprefix("--mount=") for word in words if word.startswith("--mount=")]
    return [tuple(fields[1:]) for fields in csv.reader(lines)]


def test_the_command_in_full(recorded, work):
    run = recorded()
    runs = work / "runs"
    assert words_of(run, width="3") == [
        *("docker", "run", "--rm", "--init", f"--user={os.getuid()}:{os.getgid()}"),
        *("--security-opt=no-new-privileges", "--cap-drop=ALL"),
        f"--mount=type=bind,source={runs},target={runs}",
        f"--mount=type=bind,source={runs}/a,target={runs}/a,readonly",
        f"--env=WANDB_DOCKER={IMAGE}",
        *(IMAGE, "rerun", f"{runs}/a", "--check", "--width=3", f"--output_dir={runs}"),
    ]


@pytest.mark.parametrize(
    ("recorded_on", "given", "has_gpu"),
    [("cuda:0", {}, True), ("cpu", {}, False), ("cuda", {"device": "cpu"}, False),
     ("cpu", {"device": "cuda:1"}, True)],
)  # fmt: skip
def test_gpus_are_there_where_they_were_or_are_asked_for(recorded, recorded_on, given, has_gpu):
    assert ("--gpus=all" in words_of(recorded(device=recorded_on), **given)) == has_gpu


def test_the_gpus_that_the_caller_sees_are_those_of_the_container(recorded, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "--env=CUDA_VISIBLE_DEVICES" in words_of(recorded())


def test_an_image_from_a_record_gets_the_api_key_only_if_tracking_is_asked_for(
    recorded, monkeypatch
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    run = recorded(config={"tracking": "online"})
    words = words_of(run)
    assert "--tracking=offline" in words
    assert not [word for word in words if "WANDB_API_KEY" in word]
    words = words_of(run, tracking="online")
    assert {"--env=WANDB_API_KEY", "--env=WANDB_BASE_URL", "--tracking=online"} <= set(words)
    assert "k" * 40 not in " ".join(words)


def test_data_is_shown_only_where_the_caller_says_it_is(recorded, work):
    (work / "secret").mkdir()
    config = {"dataset": "imagefolder", "data_dir": str(work / "secret")}
    run = recorded(config=config)
    with pytest.raises(InputError, match=f"add --data_dir={work}/secret"):
        words_of(run)
    words = words_of(run, data_dir="secret")
    assert mounts(words)[1] == (f"source={work}/secret", f"target={work}/secret")
    assert f"--data_dir={work}/secret" in words


def test_a_text_is_shown_only_where_the_caller_says_it_is(recorded, work):
    (work / "book.txt").touch()
    run = recorded(config={"dataset": "text", "data_dir": str(work / "book.txt")})
    with pytest.raises(InputError, match=f"add --data_dir={work}/book.txt"):
        words_of(run)


def test_data_that_is_nowhere_yet_goes_where_this_machine_keeps_it(recorded, work, monkeypatch):
    run = recorded(config={"dataset": "cifar10", "data_dir": "/no/such/folder"})
    assert f"--data_dir={work}/data" in words_of(run)
    monkeypatch.setenv("LOWRANK_DATA_DIR", str(work / "sets"))
    assert mounts(words_of(run))[1] == (f"source={work}/sets", f"target={work}/sets")


@pytest.mark.parametrize("name", ["a,b", 'quo"te', "co:lon", "spa ce", "-dash"])
def test_odd_directories_reach_docker_as_they_are(recorded, work, name):
    run = recorded(f"{name}/a")
    assert mounts(words_of(run))[0] == (f"source={work / name}", f"target={work / name}")


def test_of_a_bare_record_only_the_file_is_shown(recorded, work):
    run = recorded("copies/x")
    (work / "copies/x/record.sqlite-journal").write_bytes(b"")
    words = container(run, IMAGE, {}, local=None, check=False).words
    file = run.path.resolve()
    assert mounts(words) == [
        (f"source={work}/runs", f"target={work}/runs"),
        (f"source={file}", f"target={file}", "readonly"),
        (f"source={file}-journal", f"target={file}-journal", "readonly"),
    ]


@pytest.mark.parametrize(
    "image",
    ["lowrank", "lowrank:1.0", "ann/lowrank", "ghcr.io/ann/low-rank__x:v1", "host:5000/a/b:c",
     f"lowrank@sha256:{'0a' * 32}", f"host/a:b@sha256:{'0a' * 32}"],
)  # fmt: skip
def test_names_of_images_are_taken(recorded, image):
    assert image_of(recorded(image=image)) == image


@pytest.mark.parametrize(
    "image",
    ["--privileged", "-v/:/host", "a b", "a;id", "$(id)", "a\nb", "", "/a", "a/", "A B", ":x", "..",
     "a@sha256:0", "x" * 500, 3, ["a"], {"a": "b"}, "a" * 60 + "-" * 60 + "!"],
    ids=str,
)  # fmt: skip
def test_what_is_no_name_of_an_image_is_refused(recorded, image):
    with pytest.raises(InputError, match=r"docker: got '.*'; allowed: the name of an image"):
        image_of(recorded(image=image))


@given(st.text())
def test_whatever_is_taken_as_an_image_is_one_harmless_word(recorded_image):
    class Recorded:
        path = Path("record.sqlite")
        environment = {"image": recorded_image}  # noqa: RUF012

    try:
        image = image_of(Recorded())
    except InputError:
        return
    assert image[0].isalnum()
    assert set(image) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@")


def test_a_whole_rerun_in_the_recorded_image(recorded, docker, work, capfd):
    recorded()
    assert main(["rerun", "runs/a", "--docker", "--check", "--run_id=b"]) == 0
    printed = capfd.readouterr().out
    _, words = docker
    assert printed.splitlines()[0].split() == ["docker", *words()]
    assert "check: bitwise identical: 3 epochs" in printed
    new = load_run(work / "runs/b")
    assert new.environment["image"] == IMAGE
    assert "warning: image" not in printed
    assert new.config["output_dir"] == str(work / "runs")
    assert (work / "runs/b").stat().st_uid == os.getuid()


@pytest.mark.slow
@pytest.mark.usefixtures("docker")
def test_a_difference_found_inside_is_the_exit_code(trained, work, capfd):
    rewritten(
        trained,
        work / "runs/a",
        environment={"image": IMAGE},
        change=lambda epoch, metrics, _: metrics.update(test_loss=9.0) if epoch == 1 else None,
    )
    assert main(["rerun", "runs/a", "--docker", "--check"]) == 1
    assert "check: differs from epoch 1 on" in capfd.readouterr().out


@pytest.mark.slow
def test_another_image_can_be_named(recorded, docker, capfd):
    make, words = docker
    make(image="mine:2")
    recorded(image=None)
    assert main(["rerun", "runs/a", "--docker=mine:2", "--epochs=0"]) == 0
    assert words()[-4:-1] == ["rerun", str(Path("runs/a").resolve()), "--epochs=0"]
    assert "finished" in capfd.readouterr().out


def test_a_run_without_an_image_is_one_line(recorded, capfd):
    recorded(image=None)
    assert main(["rerun", "runs/a", "--docker"]) == 2
    printed, complaint = capfd.readouterr()
    assert printed == ""
    assert complaint.count("\n") == 1
    assert "names no image, as it ran in none or without WANDB_DOCKER" in complaint


def test_without_docker_the_command_is_shown_all_the_same(recorded, work, capfd, monkeypatch):
    recorded()
    monkeypatch.setenv("PATH", str(work))
    assert main(["rerun", "runs/a", "--docker"]) == 1
    printed, complaint = capfd.readouterr()
    assert printed.startswith("docker run --rm ")
    assert "there is no docker on this machine" in complaint


@pytest.mark.parametrize("code", [125, 126, 127])
def test_an_engine_that_fails_is_told_apart_from_a_rerun_that_fails(recorded, docker, capfd, code):
    make, _ = docker
    make(code=code)
    recorded()
    assert main(["rerun", "runs/a", "--docker"]) == 1
    assert f"docker could not run lowrank rerun (exit code {code}" in capfd.readouterr().err


@pytest.mark.usefixtures("docker")
def test_a_place_that_cannot_be_made_is_one_line(recorded, work, capfd):
    recorded()
    (work / "file").write_text("")
    assert main(["rerun", "runs/a", "--docker", "--output_dir=file/runs"]) == 2
    assert f"{work}/file/runs cannot be made: Not a directory" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_the_training_once_which_then_saves(recorded, work, number, code):
    recorded(config={"epochs": 100_000, "checkpoint_every": 1000})
    words = ["runs/a", "--docker", "--run_id=b"]
    ended, printed = interrupted(words, work, lambda process: os.killpg(process.pid, number))
    assert ended == code, printed
    assert f"{number.name}: saved epoch" in printed
    assert load_run(work / "runs/b").state == "stopped"
