"""The run configuration: what it accepts, refuses, stores and calls another run.

Defaults and order are checked against the table of the design, copied here by
hand; the stored file against PyYAML's own safe loader, which types numbers by
the rules of YAML 1.1; the round trip against the configuration itself.

    python -m pytest tests/config/test_model.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lowrank.common.errors import InputError
from lowrank.common.quantities import CHANGES, FURTHER
from lowrank.config import Config, differences, load, replace
from lowrank.config.arguments import parse
from lowrank.config.settings import Role, with_role
from lowrank.config.yamltext import read_yaml

DEFAULTS = {
    "model": "mlp",
    "depth": 5,
    "width": 100,
    "activation": "relu",
    "batch_norm": True,
    "weight_norm": False,
    "dropout": 0.0,
    "vit_patch": 4,
    "vit_depth": 6,
    "vit_heads": 4,
    "vit_width": 192,
    "vit_mlp_width": 768,
    "gpt_depth": 4,
    "gpt_heads": 4,
    "gpt_width": 128,
    "dataset": "digits",
    "data_dir": "data",
    "download": True,
    "train_size": None,
    "image_size": None,
    "augment": False,
    "context": 64,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.0,
    "weight_decay": 5e-4,
    "batch_size": 16,
    "epochs": 20,
    "schedule": "milestones",
    "milestones": [],
    "gamma": 0.2,
    "warmup_epochs": 0,
    "loss": "cross_entropy",
    "seed": 0,
    "epsilons": [1e-3, 1e-2],
    "rank_norm": "frobenius",
    "quantities": [],
    "attention_products": False,
    "spectra_of": [],
    "measure_every": 1,
    "measure_every_steps": None,
    "truncation_every": None,
    "directions": None,
    "on_collapse": "continue",
    "device": "auto",
    "precision": "fp32",
    "threads": None,
    "compile": False,
    "deterministic": False,
    "tracking": "auto",
    "project": "lowrank",
    "entity": None,
    "group": None,
    "sweep": None,
    "tags": [],
    "name": None,
    "output_dir": "runs",
    "figures_every": None,
    "checkpoint_every": 1,
    "keep_checkpoint": "weights",
}

OPTIMIZERS = ("sgd", "adam", "adamw", "muon")
counts = st.integers(1, 1000)
texts = st.text(max_size=20).map(str.strip)
names = st.none() | texts.filter(lambda text: _takes("name", text))
entities = st.none() | texts.filter(lambda text: _takes("entity", text))


def _takes(field: str, text: str) -> bool:
    try:
        return bool(getattr(Config.model_validate({field: text}), field) == text)
    except ValidationError:
        return False


def _numbers(
    low: float, high: float, exclude_min: bool = False, exclude_max: bool = False
) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=exclude_min, exclude_max=exclude_max)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Draws any valid configuration: every field, within the rules between fields."""
    of = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    model, optimizer = of(*get_args(Config.model_fields["model"].annotation)), of(*OPTIMIZERS)
    schedule = of("milestones", "constant", "cosine")
    milestones = draw(st.lists(counts, unique=True, max_size=4).map(sorted))
    milestones = milestones if schedule == "milestones" else []
    epochs = max([draw(st.integers(0, 10_000)), *milestones[:1]])
    run_id = draw(st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
    run_id = None if run_id and run_id.lower() in ("none", "null") else run_id
    values: dict[str, Any] = {
        "model": model,
        "activation": of("relu", "leaky_relu") if model not in ("vit", "gpt") else "relu",
        "dataset": of("digits", "mnist", "cifar10", "imagefolder", "synthetic"),
        "data_dir": draw(names) or "data",
        "download": draw(st.booleans()),
        "train_size": draw(st.none() | counts),
        "image_size": draw(st.none() | st.integers(32, 4096)),
        "augment": draw(st.booleans()),
        "optimizer": optimizer,
        "lr": draw(_numbers(0, 1, exclude_min=True)),
        "momentum": draw(_numbers(0, 1, exclude_max=True)) if optimizer == "sgd" else 0.0,
        "weight_decay": draw(_numbers(0, 1, exclude_max=True)),
        "batch_size": draw(counts),
        "epochs": epochs,
        "schedule": schedule,
        "milestones": milestones,
        "gamma": draw(_numbers(0, 1, exclude_min=True)) if milestones else 0.2,
        "warmup_epochs": draw(st.integers(0, epochs)),
        "loss": of("cross_entropy", "mse"),
        "seed": draw(st.none() | st.integers(0, 2**32 - 1)),
        "epsilons": draw(
            st.lists(
                _numbers(0, 1, exclude_min=True, exclude_max=True),
                min_size=1,
                max_size=16,
                unique_by=lambda value: f"{value:g}",
            )
        ),
        "rank_norm": of("frobenius", "spectral"),
        "quantities": tuple(draw(st.lists(st.sampled_from(FURTHER), unique=True))),
        "attention_products": draw(st.booleans()) and model in ("vit", "gpt"),
        "spectra_of": tuple(draw(st.lists(st.sampled_from(CHANGES), unique=True))),
        "measure_every": (every := draw(counts)),
        "measure_every_steps": draw(st.none() | counts),
        "truncation_every": draw(st.none() | st.just(every)),
        "directions": draw(st.none() | counts),
        "on_collapse": of("continue", "stop"),
        "device": of("auto", "cuda", "cuda:3"),
        "precision": of("fp32", "tf32", "bf16"),
        "threads": draw(st.none() | counts),
        "compile": draw(st.booleans()),
        "deterministic": draw(st.booleans()),
        "tracking": of("auto", "online", "offline", "disabled"),
        "project": draw(st.from_regex(r"[A-Za-z0-9_ .-]{0,20}[A-Za-z]_p", fullmatch=True)).strip(),
        "entity": draw(entities),
        "group": draw(names),
        "tags": [tag for tag in draw(st.lists(names, max_size=3)) if tag],
        "name": draw(names),
        "output_dir": draw(names) or "runs",
        "run_id": run_id,
        "resume": of("auto", "never", "must") if run_id else "auto",
        "figures_every": draw(st.none() | counts),
        "checkpoint_every": draw(counts),
        "keep_checkpoint": of("weights", "all", "none"),
    }
    if model in ("mlp", "resmlp", "convnet", "mixed"):
        values |= {"depth": draw(counts), "width": draw(counts)}
    if model == "mlp":
        values["batch_norm"] = draw(st.booleans())
        may_be = not values["batch_norm"] and optimizer != "muon"
        values["weight_norm"] = may_be and draw(st.booleans())
    if model.startswith(("v", "g")):
        values["dropout"] = draw(_numbers(0, 1, exclude_max=True))
    if model == "gpt":
        heads = draw(st.integers(1, 100))
        values |= {
            "dataset": of("pydoc", "text"),
            "image_size": None,
            "augment": False,
            "context": draw(st.integers(1, 4096)),
            "loss": "cross_entropy",
            "gpt_depth": draw(counts),
            "gpt_heads": heads,
            "gpt_width": heads * draw(counts),
        }
    if model == "vit":
        heads, patch = draw(st.integers(1, 100)), of(1, 2, 4, 8)
        size = values["image_size"]
        values |= {
            "image_size": size and size - size % patch,
            "vit_patch": patch,
            "vit_depth": draw(counts),
            "vit_heads": heads,
            "vit_width": heads * draw(counts),
            "vit_mlp_width": draw(counts),
        }
    return Config(**values)


def test_the_fields_are_those_of_the_design_in_its_order():
    assert list(Config().recorded().items()) == list(DEFAULTS.items())
    assert set(Config.model_fields) - set(DEFAULTS) == {"run_id", "resume"}
    assert Config().resume == "auto"
    assert Config().run_id is None


def test_a_configuration_is_immutable_and_hashable():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.lr = 1.0
    assert hash(config) == hash(Config())


@pytest.mark.parametrize(
    ("field", "given", "read"),
    [
        ("lr", "1e-4", 1e-4),
        ("lr", "1", 1.0),
        ("lr", 1, 1.0),
        ("lr", " .5 ", 0.5),
        ("depth", "16.0", 16),
        ("depth", 16.0, 16),
        ("epochs", "1e3", 1000),
        ("batch_norm", "False", False),
        ("augment", "yes", True),
        ("augment", 1, True),
        ("augment", "0", False),
        ("seed", "None", None),
        ("seed", "null", None),
        ("seed", "", None),
        ("seed", None, None),
        ("milestones", "[6, 10, 20]", (6, 10, 20)),
        ("milestones", "6,100,200", (6, 100, 200)),
        ("milestones", [6.0, "100"], (6, 100)),
        ("milestones", "6", (6,)),
        ("milestones", "", ()),
        ("milestones", "None", ()),
        ("epsilons", "[1e-3, 0.01]", (1e-3, 1e-2)),
        ("tags", "a, b", ("a", "b")),
        ("tags", "['a, b', c]", ("a, b", "c")),
        ("tags", "[1, 2]", ("1", "2")),
        ("name", "123", "123"),
        ("name", "0123", "0123"),
        ("keep_checkpoint", "none", "none"),
    ],
    ids=lambda value: repr(value),
)
def test_text_is_read_as_the_type_of_the_field(field: str, given: Any, read: Any):
    got = getattr(Config(**{field: given}), field)
    assert got == read
    assert type(got) is type(read)


@settings(max_examples=100, deadline=None)
@given(config=configs())
def test_every_configuration_comes_back_from_its_file(config: Config, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load(path) == replace(config, run_id=None, resume="auto")
    # and any reader of YAML 1.1 sees numbers as numbers, to the last bit
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == config.recorded()


def test_a_stored_configuration_of_an_earlier_version_is_read_as_before(tmp_path):
    (path := tmp_path / "config.yaml").write_text(f"{Config(lr=0.2).to_yaml()}replicas: 1\n")
    assert load(path) == Config(lr=0.2)
    assert parse(["--config", str(path), "--seed=3"], {}) == Config(lr=0.2, seed=3)
    path.write_text(f"{Config(lr=0.2).to_yaml()}replicas: 3\n")
    with pytest.raises(InputError, match=r"^unknown name 'replicas' from .*: three seeds are"):
        load(path)


@settings(max_examples=100, deadline=None)
@given(config=configs())
def test_every_configuration_comes_back_from_a_command_line(config: Config):
    values = config.recorded() | {"run_id": config.run_id, "resume": config.resume}
    flags = [
        f"--{name}={yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()}"
        if isinstance(value, list)
        else f"--{name}={value}"  # as `wandb agent` writes it
        for name, value in values.items()
    ]
    assert parse(flags, {}) == config


def test_small_numbers_are_stored_as_numbers():
    assert "lr: 1.0e-05\n" in Config(lr=1e-5).to_yaml()


def test_what_is_recorded_is_plain_python():
    kinds = {type(value) for value in Config(tags=("a",)).recorded().values()}
    assert kinds == {str, int, float, bool, list, type(None)}


def test_replace_validates_the_whole():
    assert replace(Config(seed=None), seed="7").seed == 7
    with pytest.raises(InputError) as caught:
        replace(Config(optimizer="adam"), momentum=0.9, lr=0, depht=3)
    assert caught.value.lines == [
        "unknown name 'depht', did you mean 'depth'?",
        "lr: got 0; allowed: a finite number above 0",
        "momentum=0.9 has no effect with optimizer=adam, only with optimizer=sgd; leave it out",
    ]


def test_a_conflict_is_refused_also_when_made_directly():
    with pytest.raises(ValidationError, match="resume=must needs"):
        Config(resume="must")


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({"dataset": "cifar10"}, None),
        ({"dataset": "mnist"}, 32),
        ({"dataset": "fashion_mnist"}, 32),
        ({"dataset": "digits"}, None),
        *(({"dataset": "digits", "model": name}, 32) for name in ("convnet", "resnet18", "vgg19")),
        *(({"dataset": "digits", "model": name}, None) for name in ("resmlp", "vit")),
        ({"dataset": "mnist", "model": "vit"}, 32),
        ({"dataset": "stl10", "model": "vgg16"}, None),
        ({"dataset": "mnist", "image_size": 28}, 28),
    ],
    ids=str,
)
def test_image_size_defaults_by_dataset_and_model(values: dict[str, Any], size: int | None):
    assert Config(**values).resolved_image_size == size


@pytest.mark.parametrize(
    ("stored", "requested", "fields"),
    [
        ({}, {}, []),
        ({}, {"lr": 0.2, "depth": 6}, ["depth", "lr"]),
        ({}, {"tracking": "offline", "project": "p", "entity": "e", "group": "g"}, []),
        ({}, {"tags": ["a"], "name": "n", "output_dir": "o", "data_dir": "d"}, []),
        ({}, {"download": False, "checkpoint_every": 3, "keep_checkpoint": "all"}, []),
        ({}, {"run_id": "a", "resume": "must"}, []),
        ({"epochs": 20}, {"epochs": 30}, []),
        ({"epochs": 20}, {"epochs": 10}, ["epochs"]),
        ({"schedule": "cosine"}, {"schedule": "cosine", "epochs": 30}, ["epochs"]),
        ({"warmup_epochs": 2}, {"warmup_epochs": 2, "epochs": 30}, []),
        ({"seed": 7}, {"seed": None}, []),
        ({"seed": 7}, {"seed": 0}, ["seed"]),
        ({"threads": 2}, {}, []),
        ({"threads": 2}, {"threads": 4}, ["threads"]),
        ({}, {"measure_every": 2, "device": "cpu"}, ["measure_every", "device"]),
    ],
    ids=lambda value: (
        ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None
    ),
)
def test_fields_that_make_a_resumed_run_another(
    stored: dict[str, Any], requested: dict[str, Any], fields: list[str]
):
    before, now = Config(**stored), Config(**requested)
    assert differences(before, now) == {
        name: (getattr(before, name), getattr(now, name)) for name in fields
    }


def test_load_names_the_file_and_every_mistake(tmp_path: Path):
    path = tmp_path / "config.yaml"
    text = Config().to_yaml().replace("lr: 0.1\n", "lr: fast\n")
    path.write_text(f"{text}rank_nrom: spectral\n")
    with pytest.raises(InputError) as caught:
        load(path)
    assert caught.value.lines == [
        f"unknown name 'rank_nrom' from {path}, did you mean 'rank_norm'?",
        f"lr: got 'fast' from {path}; allowed: a finite number above 0",
    ]


def test_load_refuses_what_is_not_complete(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(Config().to_yaml().replace("width: 100\n", ""))
    with pytest.raises(InputError, match="is not complete, it lacks width: restore it"):
        load(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x [1]\nb: *x", "line 1: anchors and aliases"),
        ("a: !!python/object/apply:os.system [ls]", r"line 1: tags \(!\)"),
        ("a: !!binary aGk=", r"line 1: tags \(!\)"),
        ("[" * 6, "line 1: nested more than 5 deep"),
        ("[" * 19_000, "nested"),
        ("a: 1\na: 2", "given twice: 'a'"),
        ("a: {b: 1, b: 2}", "given twice: 'b'"),
        ("a: [", "line 1|line 2"),
        ("a: 1\n---\nb: 2", "but found another document"),
        ("? [a]\n: 1", "unhashable"),
        ("a: \x07", "control characters"),
        ("a" * 20_001, "longer than 20000"),
    ],
    ids=lambda value: repr(value[:25]),
)
def test_yaml_that_is_more_than_plain_is_refused_in_one_line(text: str, reason: str):
    with pytest.raises(ValueError, match=reason) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(
        alphabet=st.sampled_from(list("{}[]:,-?&*!|>'\"%@`#\n \tab01\\\u2028é\x00")), max_size=40
    )
)
def test_any_text_is_yaml_or_one_line_of_complaint(text: str):
    try:
        read_yaml(text)
    except ValueError as error:
        assert str(error).isprintable()


ROLES = {
    "identity": "sweep run_id resume",
    "replicate": "seed",
    "place": "data_dir download output_dir",
    "machine": "device threads compile deterministic",
    "tracking": (
        "tracking project entity group tags name figures_every checkpoint_every keep_checkpoint"
    ),
    "measurement": "epsilons rank_norm quantities attention_products spectra_of measure_every "
    "measure_every_steps "
    "truncation_every directions on_collapse",
}


@pytest.mark.parametrize("role", ROLES)
def test_every_field_has_the_role_that_it_should(role: Role):
    assert with_role(role) == tuple(ROLES[role].split())


def test_all_other_fields_are_the_experiment():
    others = {name for names in ROLES.values() for name in names.split()}
    assert set(with_role("science")) == set(Config.model_fields) - others
    assert "precision" in with_role("science")
