"""Compiled steps against those by autograd, in float64, where both are the same but for rounding.

Every family's graph is run as it was traced, and some are compiled; runs of ``train.py --compile``
are compared with themselves bit for bit, and with plain ones to rounding.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowrank import load_run
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.data import load_dataset
from lowrank.models import build_model
from lowrank.training import step as stepping
from lowrank.training import steps
from lowrank.training.learner import Learner
from lowrank.training.optimizer import Optimizer
from lowrank.training.pack import Pack
from tests.test_train import assert_same_record, spawn

FAMILIES = [
    {"model": "mlp", "depth": 2, "width": 12, "batch_norm": False, "activation": "leaky_relu"},
    {"model": "mlp", "depth": 2, "width": 12, "batch_norm": False, "weight_norm": True},
    {"model": "resmlp", "depth": 2, "width": 12},
    {"model": "convnet", "depth": 1, "width": 6, "loss": "mse"},
    {"model": "mixed", "depth": 1, "width": 6},
    {"model": "resnet18"},
    {"model": "vgg11"},
    {"model": "vit", "vit_depth": 1, "vit_heads": 2, "vit_width": 16, "vit_mlp_width": 24},
    {"model": "gpt", "gpt_depth": 1, "gpt_heads": 2, "gpt_width": 16, "dataset": "text"},
]
COMPILED = [FAMILIES[place] for place in (1, 3, 7, 8)]


def batch(count, shape, members=None):
    torch.manual_seed(1)
    size = (count,) if members is None else (members, count)
    if len(shape) == 1:  # a text
        return torch.randint(10, (*size, *shape)), torch.randint(10, (*size, *shape))
    return torch.randn(*size, *shape, dtype=torch.float64), torch.randint(10, size)


def shape_of(fields):
    return (7,) if fields["model"] == "gpt" else (3, 32, 32)


def built(config, shape, seed=0):
    steps.seed_epoch(seed, 0)
    return build_model(config, shape, 10).double()


def steps_of(pack, configs, images, labels, *, is_compiled):
    """Returns a pack's step by formulas, by autograd or compiled, and its optimiser."""
    parameters = list(pack.stack.parameters())
    optimizer = Optimizer(configs, parameters, fused=not (is_compiled or pack.is_stacked))
    loss = steps.make_loss(configs[0].loss)
    if is_compiled:
        return stepping.compiled(pack, optimizer, loss, images, labels), optimizer
    return stepping.by_autograd(pack, optimizer, loss), optimizer


def assert_same_step(first, second, configs, images, labels):
    """Asserts that two packs of equal networks step alike, statistics included."""
    plain, of_plain = steps_of(first, configs, images, labels, is_compiled=False)
    before = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    compiled, of_compiled = steps_of(second, configs, images, labels, is_compiled=True)
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # compiling is not training
    smaller = [x.narrow(int(first.is_stacked), 1, 2) for x in (images, labels)]
    first.train()
    for rate in (0.01, 0.02):
        for each in (of_plain, of_compiled):
            each.set_rates([rate] * len(configs))
        for given in ((images, labels), smaller):
            plain(*given)
            compiled(*given)
            for name, expected in first.state_dict().items():
                torch.testing.assert_close(
                    second.state_dict()[name], expected, rtol=1e-8, atol=1e-10, msg=name
                )
    for name, tensor in second.state_dict().items():
        assert before[name].numel() == 1 or not torch.equal(tensor, before[name]), name


def pair(config, shape):
    """Returns two packs of one and the same network."""
    network = built(config, shape)
    return Pack([network]), Pack([copy.deepcopy(network)])


@pytest.mark.slow
def test_compiled_steps_of_an_mlp_with_batchnorm_are_autograds():
    config = Config(depth=2, width=12)
    assert_same_step(*pair(config, (1, 4, 4)), [config], *batch(9, (1, 4, 4)))


@pytest.mark.parametrize("fields", FAMILIES, ids=lambda fields: "-".join(map(str, fields.values())))
def test_the_graph_of_every_family_steps_as_autograd_does(fields, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)  # minutes for all of them
    config, shape = Config(**fields), shape_of(fields)
    assert_same_step(*pair(config, shape), [config], *batch(3, shape))


@pytest.mark.slow
@pytest.mark.parametrize("fields", COMPILED, ids=lambda fields: fields["model"])
def test_compiled_steps_are_autograds(fields):
    config, shape = Config(**fields), shape_of(fields)
    assert_same_step(*pair(config, shape), [config], *batch(4, shape))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"model": "convnet", "depth": 1, "width": 6}, {"model": "resnet18"}]
)
def test_compiled_steps_of_images_with_channels_last_are_autograds(fields):
    config = Config(**fields)
    images, labels = batch(4, (3, 32, 32))
    images = images.contiguous(memory_format=torch.channels_last)
    assert_same_step(*pair(config, (3, 32, 32)), [config], images, labels)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"depth": 2, "width": 12}, {"model": "convnet", "depth": 1}])
def test_compiled_steps_of_a_pack_are_autograds(fields):
    configs = [Config(**{"width": 6, "weight_decay": wd, **fields}) for wd in (0.1, 0.2, 0.0)]
    stacks = [
        Pack([built(config, (3, 32, 32), seed) for seed, config in enumerate(configs)])
        for _ in range(2)
    ]
    assert_same_step(*stacks, configs, *batch(5, (3, 32, 32), members=3))


@pytest.mark.slow
def test_a_compiled_run_repeats_and_resumes_bit_for_bit_and_learns_as_a_plain_one(tmp_path):
    sizes = ["--train_size=333", "--batch_size=32", "--width=20", "--depth=2"]  # last batch: 13
    for flags in (
        ["--run_id=whole", "--epochs=3", "--compile"],
        ["--run_id=parts", "--epochs=1", "--compile"],
        ["--run_id=parts", "--epochs=3", "--compile"],
        ["--run_id=plain", "--epochs=3"],
    ):
        process = spawn(tmp_path, *sizes, "--tracking=disabled", *flags)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert ("compiled in " in output) == ("--compile" in flags)
    runs = tmp_path / "runs"
    assert_same_record(runs / "whole", runs / "parts")
    compiled, plain = (load_run(runs / name) for name in ("whole", "plain"))
    for name in ("train_loss", "test_loss"):
        assert compiled.metrics[name] == pytest.approx(plain.metrics[name], rel=1e-3)


@pytest.mark.slow
def test_dropout_in_a_compiled_step_is_drawn_from_torchs_generator():
    config = parse(["--model=vit", "--dropout=0.5", "--vit_depth=1", "--vit_width=16"])
    pack = Pack([built(config, (3, 32, 32))])
    images, labels = batch(4, (3, 32, 32))
    compiled, _ = steps_of(pack, [config], images, labels, is_compiled=True)
    start = copy.deepcopy(pack.state_dict())

    def drawn(seed):
        pack.load_state_dict(start)
        torch.manual_seed(seed)
        compiled(images, labels)
        return torch.cat([p.detach().flatten() for p in pack.parameters()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_without_a_compiler_the_error_says_what_works(monkeypatch):
    from torch._inductor import exc

    def fail(*_):
        raise RuntimeError("backend='inductor' raised") from exc.InvalidCxxCompiler()

    monkeypatch.setattr(stepping, "_compile", fail)
    pack = Pack([nn.Sequential(nn.Flatten(), nn.Linear(4, 10)).double()])
    images, labels = batch(2, (1, 2, 2))
    with pytest.raises(
        InputError, match=r"compile=True is not possible here \(.*\); compile=False"
    ):
        steps_of(pack, [Config()], images, labels, is_compiled=True)


def test_memory_that_runs_out_in_compiling_is_not_called_a_missing_compiler(monkeypatch):
    def fail(*_):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError:
            raise RuntimeError("backend='inductor' raised")  # noqa: B904  # as torch does

    monkeypatch.setattr(stepping, "_compile", fail)
    pack = Pack([nn.Sequential(nn.Flatten(), nn.Linear(4, 10)).double()])
    with pytest.raises(torch.OutOfMemoryError):
        steps_of(pack, [Config()], *batch(2, (1, 2, 2)), is_compiled=True)


def test_a_learner_compiles_for_the_shape_of_its_batches(monkeypatch):
    seen = []
    monkeypatch.setattr(stepping, "compiled", lambda *given, **_: seen.append(given[3].shape))
    digits = load_dataset("digits", train_size=20)
    for size, members, expected in ((16, 1, (16,)), (64, 1, (20,)), (8, 2, (2, 8))):
        configs = [Config(depth=1, width=5, batch_size=size, compile=True)] * members
        networks = [build_model(config, digits.image_shape, 10) for config in configs]
        Learner(configs, digits, Pack(networks)).compile()
        assert seen[-1] == (*expected, 1, 8, 8)


@pytest.mark.slow
def test_a_new_rate_compiles_nothing():
    from torch._dynamo.utils import counters

    config = Config(depth=1, width=6)
    pack = Pack([built(config, (1, 4, 4))])
    images, labels = batch(4, (1, 4, 4))
    compiled, optimizer = steps_of(pack, [config], images, labels, is_compiled=True)
    before = dict(counters["stats"])
    for rate in (0.1, 0.01, 0.001):
        optimizer.set_rates([rate])
        compiled(images, labels)
    assert dict(counters["stats"]) == before
