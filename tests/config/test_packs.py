"""Which configurations may train as one pack: by field, and the reasons against it."""

import pytest

from lowrank.config import Config
from lowrank.config.optimizers import OPTIMIZERS
from lowrank.config.packs import pack_key, unpackable

OWN = {
    "lr": 0.2,
    "schedule": "constant",
    "milestones": (3,),
    "gamma": 0.5,
    "warmup_epochs": 2,
    "momentum": 0.5,
    "weight_decay": 0.01,
    "seed": 1,
    "sweep": "s",
    "run_id": "a",
    "resume": "never",
    "tracking": "offline",
    "project": "p",
    "entity": "e",
    "group": "g",
    "tags": ("t",),
    "name": "n",
    "keep_checkpoint": "all",
    "output_dir": "elsewhere",
    "figures_every": 3,
}
OTHER = {  # another value of each field that members share
    "model": "vit",
    "activation": "leaky_relu",
    "dropout": 0.5,
    "dataset": "mnist",
    "data_dir": "elsewhere",
    "optimizer": "adam",
    "loss": "mse",
    "epsilons": (0.1,),
    "rank_norm": "spectral",
    "on_collapse": "stop",
    "device": "cpu",
    "precision": "tf32",
}


def _with(name, value):
    return Config().model_copy(update={name: value})


@pytest.mark.parametrize("name", Config.model_fields)
def test_only_numbers_of_a_step_and_names_of_a_run_may_differ(name):
    default = getattr(Config(), name)
    value = (OWN | OTHER).get(name)
    if value is None:
        value = not default if isinstance(default, bool) else (default or 0) + 1
    assert value != default
    assert (pack_key(_with(name, value)) == pack_key(Config())) == (name in OWN)
    hash(pack_key(_with(name, value)))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("dropout", 0.5, "dropout=0.5: masks"),
        ("augment", True, "augment=True: crops and flips"),
        ("precision", "bf16", "precision=bf16: autocast"),
    ],
)
def test_a_run_that_can_only_train_alone_says_why(name, value, reason):
    assert unpackable(_with(name, value)).startswith(reason)


def test_an_optimiser_without_a_formula_trains_alone_and_is_not_compiled(monkeypatch):
    assert unpackable(Config()) is None
    monkeypatch.setitem(OPTIMIZERS, "sgd", OPTIMIZERS["sgd"]._replace(formula=False))
    assert unpackable(Config()).startswith("optimizer=sgd: networks are stacked for")
    with pytest.raises(ValueError, match="compile=True, but a compiled step has optimizer="):
        Config(compile=True)
