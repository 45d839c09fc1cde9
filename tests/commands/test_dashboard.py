"""``lowrank dashboard``: its flags, its faults, and what ``--dump`` writes without any server."""

from __future__ import annotations

import json

import pytest
import wandb
import yaml

from lowrank.cli import main


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], ["which project? allowed: ENTITY/PROJECT, such as me/lowrank"]),
        (["lowrank"],
         ["which project? got 'lowrank'; allowed: ENTITY/PROJECT, such as me/lowrank"]),
        (["me/lowrank", "--dmup"], ["unknown flag '--dmup', did you mean 'dump'?"]),
        (["me/lowrank", "--by=lr,bach_size"],
         ["by: unknown field 'bach_size', did you mean 'batch_size'?"]),
        (["me/lowrank", "--name"], ["name: no value after --name; allowed: a text of 1 to 128 "
                                    "characters"]),
        (["me/lowrank", "--sweep=a/b"],
         ["sweep: got 'a/b'; allowed: the id of a W&B sweep, a sweep file, or the name of a sweep "
          "run without a server"]),
        (["a/b/c", "--by=lr", "--by=lr"],
         ["by: given twice; allowed: once",
          "which project? got 'a/b/c'; allowed: ENTITY/PROJECT, such as me/lowrank"]),
    ],
    ids=["nothing", "no entity", "flag", "field", "no value", "sweep", "two at once"],
)  # fmt: skip
def test_mistakes_are_told_in_lines(words, lines, capsys):
    assert main(["dashboard", *words]) == 2
    assert capsys.readouterr().err.splitlines() == [f"lowrank: {line}" for line in lines]


def test_dump_writes_the_specification_without_any_server(tmp_path, capsys):
    file = tmp_path / "dashboard.json"
    assert main(["dashboard", "me/lowrank", "--by=lr", f"--dump={file}"]) == 0
    assert capsys.readouterr().out == f"wrote {file}\n"
    assert main(["dashboard", "me/lowrank", "--by=lr", "--dump"]) == 0
    written, printed = json.loads(file.read_text()), json.loads(capsys.readouterr().out)
    assert (written["entity"], written["project"]) == ("me", "lowrank")
    titles = [
        [panel["config"].get("chartTitle") for panel in section["panels"]]
        for view in (written, printed)
        for section in view["spec"]["section"]["panelBankConfig"]["sections"]
    ]
    assert titles[: len(titles) // 2] == titles[len(titles) // 2 :]


def test_a_dump_shows_the_sweep_of_an_id_or_a_name_as_no_server_tells_which(capsys):
    assert main(["dashboard", "me/lowrank", "--sweep=fig05", "--dump"]) == 0
    (runs,) = json.loads(capsys.readouterr().out)["spec"]["section"]["runSets"]
    keys = [rule["key"]["section"] for rule in runs["filters"]["filters"]]
    assert keys == ["run", "config"]


def test_a_dump_that_cannot_be_written_is_told(tmp_path, capsys):
    assert main(["dashboard", "me/lowrank", f"--dump={tmp_path}/none/x.json"]) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_without_an_api_key_the_way_without_a_server_is_named(capsys):
    assert main(["dashboard", "me/lowrank"]) == 2
    assert "--dump writes the specification without any server" in capsys.readouterr().err


SWEEP = """\
program: train.py
method: grid
metric: {name: rank_mean, goal: minimize}
parameters:
  config: {values: ['{lr: 0.1, batch_size: 8}', '{lr: 0.2, batch_size: 16}']}
  weight_decay: {values: [0.0, 0.01]}
  seed: {values: [0, 1]}
"""


def made_by(server):
    """Returns the specification of the only view, and what it shows ranks by."""
    (view,) = server.views
    spec = json.loads(view.spec)
    first = spec["section"]["panelBankConfig"]["sections"][0]["panels"]
    by = [panel["config"].get("groupBy") for panel in first]
    return view, spec, [field for field in dict.fromkeys(by) if field]


def test_the_workspace_of_a_sweep_is_saved_and_on_a_second_call_updated(
    wandb_server, tmp_path, capsys
):
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    sweep = wandb.sweep(yaml.safe_load(SWEEP), entity="tester", project="ranks")
    assert main(["dashboard", "tester/ranks", f"--sweep={sweep}"]) == 0
    out = capsys.readouterr().out
    view, spec, by = made_by(wandb_server)
    assert f"made the workspace 'lowrank: {sweep}'" in out
    assert f"{wandb_server.url}/tester/ranks?nw={view.name[3:-2]}" in out
    assert by == ["lr.value", "batch_size.value", "weight_decay.value"]
    (rule,) = spec["section"]["runSets"][0]["filters"]["filters"]
    assert rule["value"] == sweep
    dumped = tmp_path / "dump.json"
    flags = ["--by=lr,batch_size,weight_decay", f"--dump={dumped}"]
    assert main(["dashboard", "tester/ranks", *flags]) == 0
    expected = json.loads(dumped.read_text())["spec"]["section"]["panelBankConfig"]["sections"]
    arrived = spec["section"]["panelBankConfig"]["sections"]
    for one, other in zip(arrived, expected, strict=True):
        assert [p["config"] for p in one["panels"]] == [p["config"] for p in other["panels"]]

    assert main(["dashboard", "tester/ranks", f"--sweep={sweep}", "--by=lr", "--name=Mine"]) == 0
    assert "updated the workspace 'Mine'" in capsys.readouterr().out
    again, _, by = made_by(wandb_server)
    assert (again.id, again.display_name, by) == (view.id, "Mine", ["lr.value"])


def test_what_varies_is_found_in_the_runs_of_a_project(wandb_server, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, lr in enumerate((0.1, 0.2)):
        config = {"lr": lr, "depth": 5, "seed": seed, "sweep": "fig05"}
        place = {"entity": "tester", "project": "ranks", "id": f"9ivv6x-000{seed}"}
        wandb.init(**place, config=config, group="mine").finish()
    assert main(["dashboard", "tester/ranks"]) == 0
    assert made_by(wandb_server)[2] == ["lr.value"]
    assert main(["dashboard", "tester/ranks", "--sweep=fig05"]) == 0
    assert len(wandb_server.views) == 2
    for beginning in ("9ivv6x", "9ivv6x-NNNN"):
        assert main(["dashboard", "tester/ranks", f"--sweep={beginning}"]) == 0
        assert "updated the workspace 'lowrank: fig05'" in capsys.readouterr().out
    capsys.readouterr()
    assert main(["dashboard", "tester/ranks", "--sweep=nothing"]) == 2
    assert capsys.readouterr().err == (
        "lowrank: sweep: tester/ranks has no sweep with the id nothing, and no runs of a sweep of "
        "that name, or whose ids begin so\n"
    )


def test_a_server_that_refuses_the_workspace_is_told_in_a_line(wandb_server, capsys):
    with wandb_server.outage(403, where="UpsertView2"):
        assert main(["dashboard", "tester/ranks", "--by=lr"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lowrank: W&B does not take the workspace (")
    assert line.endswith("); --dump writes it to a file")
    assert wandb_server.views == []


@pytest.mark.parametrize(
    ("project", "sweep"),
    [
        ("tester/my ranks", "ID"),
        ("URL/tester/my%20ranks/workspace?nw=x", "tester/my ranks/ID"),
        ("URL/tester/my%20ranks", "URL/tester/my%20ranks/sweeps/ID"),
    ],
)
def test_projects_with_spaces_and_addresses_are_read(wandb_server, project, sweep):
    made = wandb.sweep(yaml.safe_load(SWEEP), entity="tester", project="my ranks")
    words = [
        word.replace("URL", wandb_server.url).replace("ID", made)
        for word in (project, f"--sweep={sweep}")
    ]
    assert main(["dashboard", *words]) == 0
    _, spec, by = made_by(wandb_server)
    assert spec["section"]["runSets"][0]["filters"]["filters"][0]["value"] == made
    assert by == ["lr.value", "batch_size.value", "weight_decay.value"]


def test_a_sweep_of_another_project_is_refused(capsys):
    words = ["me/ranks", "--sweep=https://wandb.ai/me/others/sweeps/ab12", "--dump"]
    assert main(["dashboard", *words]) == 2
    assert capsys.readouterr().err == "lowrank: sweep: me/others/ab12 is not in me/ranks\n"
