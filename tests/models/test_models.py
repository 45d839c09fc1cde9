"""Networks against the paper's counts, closed forms, torchvision's networks and plain formulas.

Counts of matrices and parameters are written down from the definitions in the paper's text;
outputs are computed again from the weights by `torch.nn.functional` or float64 numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from lowrank import models
from lowrank.common.errors import Failure, InputError
from lowrank.config import Config, replace
from lowrank.data import load_dataset
from lowrank.data.sets import blank
from lowrank.measure.matrices import skipped_parameters, weight_matrices
from lowrank.measure.positions import output_positions
from lowrank.models import FAMILIES, build_model
from lowrank.models.resmlp import Block

CIFAR = (3, 32, 32)
CONVOLUTIONAL = (
    *("convnet", "mixed", "resnet18", "resnet34", "resnet50"),
    *("vgg11", "vgg13", "vgg16", "vgg19"),
)

MATRICES = {  # all, and those of the paper's average
    "mlp": (6, 5),
    "resmlp": (12, 11),
    "convnet": (8, 7),
    "mixed": (23, 22),
    "resnet18": (21, 17),
    "resnet34": (37, 33),
    "resnet50": (54, 49),
    "vgg11": (9, 8),
    "vgg13": (11, 10),
    "vgg16": (14, 13),
    "vgg19": (17, 16),
    "vit": (38, 37),
    "gpt": (25, 24),
}
OF_IMAGES = [name for name, family in FAMILIES.items() if not family.text]


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def build(config, shape=CIFAR, classes=10):
    torch.manual_seed(0)
    return build_model(config, shape, classes)


def mean_full_rank(model):
    counted = [min(matrix.shape) for matrix in weight_matrices(model) if matrix.counted]
    return sum(counted) / len(counted)


@pytest.fixture(scope="module", params=FAMILIES)
def network(request):
    """Each model with its default sizes, for CIFAR-10 or a text of ten letters."""
    if FAMILIES[request.param].text:
        return build(Config(model=request.param, dataset="text"), (64,))
    return build(Config(model=request.param))


def test_the_models_are_those_of_the_design():
    assert list(get_args(get_type_hints(Config)["model"])) == list(FAMILIES) == list(MATRICES)


def test_every_file_of_a_family_is_in_the_table():
    folder = Path(models.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "activations", "factored"}
    assert files == {family.file for family in FAMILIES.values()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_reads_the_fields_that_its_line_names(name):
    # The others are refused as having no effect, so that reading one of them would be a lie.
    read = set()

    class Noted:
        def __getattr__(self, field):
            read.add(field)
            return getattr(config, field)

    text = FAMILIES[name].text
    config = Config(model=name, **({"dataset": "text"} if text else {"image_size": 32}))
    with torch.device("meta"):
        build(Noted(), (64,) if text else CIFAR)
    fields = {
        field for field, info in Config.model_fields.items()
        if info.json_schema_extra["group"] == "model"
    }  # fmt: skip
    own = set(FAMILIES[name].fields)
    assert own <= read
    assert (read & fields) - {"model", "vit_patch"} <= own, "vit_patch belongs to the size check"


def test_the_papers_layers_are_counted(network, request):
    matrices = weight_matrices(network)
    counted = [matrix for matrix in matrices if matrix.counted]
    assert (len(matrices), len(counted)) == MATRICES[request.node.callspec.params["network"]]
    last = matrices[-1]
    assert last.shape[0] == 10
    uncounted = [matrix.name for matrix in matrices if not matrix.counted]
    assert uncounted[-1] == last.name, "the classifier"
    assert all("downsample" in name for name in uncounted[:-1])


def test_every_parameter_is_a_matrix_or_known_to_be_none(network, request):
    # Biases and normalisations are vectors, so that what is left over would be a missed matrix.
    measured = sum(rows * columns for rows, columns in (m.shape for m in weight_matrices(network)))
    vectors = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim < 2)
    skipped = skipped_parameters(network)
    assert measured + vectors + sum(np.prod(s.shape) for s in skipped) == parameters(network)
    expected = {
        "vit": [("class_token", "token"), ("encoder.pos_embedding", "position embedding")],
        "gpt": [("embedding.weight", "embedding"), ("position.weight", "embedding")],
    }.get(request.node.callspec.params["network"], [])
    assert [(s.path, s.reason) for s in skipped] == expected


def test_weights_are_drawn_as_pytorch_draws_them(network):
    # PyTorch's default is uniform within 1/sqrt(fan_in), of a variance of a third of that squared;
    # attention projects with Glorot's, within sqrt(6/(rows + columns)) of the fused matrix.
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight, limit = module.weight.detach(), module.weight[0].numel() ** -0.5
        elif isinstance(module, nn.MultiheadAttention):
            weight = module.in_proj_weight.detach()
            limit = (6 / sum(weight.shape)) ** 0.5
        else:
            continue
        assert 0.95 * limit < weight.abs().max() <= limit
        assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.1)


def test_no_matrix_begins_without_rank(network):
    assert all(torch.linalg.matrix_norm(m.view()) > 0 for m in weight_matrices(network))


def test_every_matrix_is_applied_where_the_theory_needs_it(network, request):
    matrices = weight_matrices(network)
    text = FAMILIES[request.node.callspec.params["network"]].text
    applied = output_positions(network, matrices, blank((64,) if text else CIFAR, 1, device="cpu"))
    assert all(use is not None and use.positions >= 1 for use in applied.values())


# -- every data set's shape


def image_shape(name, dataset):
    """Returns (channels, height, width) as the table of the design has it."""
    digits = 32 if name in CONVOLUTIONAL else 8
    return {
        "digits": (1, digits, digits),
        "mnist": (1, 32, 32),
        "cifar10": CIFAR,
        "stl10": (3, 96, 96),
    }[dataset]


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        (name, dataset)
        for name in OF_IMAGES
        for dataset in ("digits", "mnist", "cifar10")
        if (name, dataset) not in [(name, "digits") for name in CONVOLUTIONAL]  # as mnist
    ],
)
def test_forward_and_backward_reach_every_parameter(name, dataset):
    model = build(Config(model=name, dataset=dataset), image_shape(name, dataset), 7)
    logits = model(torch.randn(2, *image_shape(name, dataset)))
    assert logits.shape == (2, 7)
    functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path


@pytest.mark.parametrize("name", OF_IMAGES)
def test_forward_and_backward_work_on_large_images(name):
    # Without values (the meta device), as ResNets are slow at 96 x 96.
    with torch.device("meta"):
        model = build(Config(model=name, dataset="stl10"), image_shape(name, "stl10"), 7)
        logits = model(torch.empty(2, *image_shape(name, "stl10")))
        assert logits.shape == (2, 7)
        logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", OF_IMAGES)
def test_the_digits_have_the_size_of_the_design(name):
    size = Config(model=name).resolved_image_size
    found = load_dataset("digits", train_size=10, image_size=size).image_shape
    assert found == image_shape(name, "digits")


@pytest.mark.parametrize("name", [name for name in OF_IMAGES if name != "vit"])
def test_images_need_not_be_square(name):
    with torch.device("meta"):
        model = build(Config(model=name, dataset="imagefolder"), (3, 40, 56), 7)
        assert model(torch.empty(2, 3, 40, 56)).shape == (2, 7)


REFUSED = {
    "small for vgg": ("vgg13", {}, (3, 31, 64), "31 x 64 images of imagefolder: too small for "
        "model=vgg13; image_size=32 or more works"),
    "small for convnet": ("convnet", {}, (1, 3, 3), "3 x 3 images of imagefolder: too small for "
        "model=convnet; image_size=4 or more works"),
    "not square": ("vit", {}, (3, 30, 41), "30 x 41 images of imagefolder: not square, as "
        "model=vit needs them; image_size=44 works"),
    "no whole patches": ("vit", {"vit_patch": 6}, (3, 28, 28), "28 x 28 images of imagefolder: "
        "vit_patch=6 does not divide 28; vit_patch=4 or image_size=30 works"),
    "larger than any image_size": ("vit", {}, (3, 5000, 4000), "5000 x 4000 images of imagefolder: "
        "not square, as model=vit needs them; image_size=4096 works"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "shape", "message"), REFUSED.values(), ids=REFUSED)
def test_sizes_that_a_model_cannot_take_are_refused(name, fields, shape, message):
    with pytest.raises(InputError) as refused:
        build(Config(model=name, dataset="imagefolder", **fields), shape)
    assert refused.value.lines == [message]


SMALLEST = [("convnet", 4, {}), ("vgg19", 32, {}), ("vit", 44, {}), ("vit", 28, {"vit_patch": 4})]


@pytest.mark.parametrize(("name", "size", "fields"), SMALLEST)
def test_the_sizes_that_refusals_name_work(name, size, fields):
    with torch.device("meta"):
        model = build(Config(model=name, dataset="imagefolder", **fields), (3, size, size))
        assert model(torch.empty(2, 3, size, size)).shape == (2, 10)


def test_a_network_that_no_memory_holds_is_a_failure_in_one_line():
    # Its first matrix has 200 terabytes, more than a process can address, whatever the machine.
    config = Config(model="vit", vit_width=1_000_000, vit_patch=4096, image_size=4096,
        dataset="imagefolder")  # fmt: skip
    with pytest.raises(Failure) as failed:
        build(config, (3, 4096, 4096))
    (line,) = failed.value.lines
    assert line.startswith("out of memory: model=vit of this size does not fit; a smaller one")


# -- MLPs


@pytest.mark.parametrize("batch_norm", [True, False], ids=["batch_norm", "plain"])
def test_mlp_has_the_parameters_of_its_definition(batch_norm):
    model = build(Config(depth=10, width=100, batch_norm=batch_norm))
    hidden = (3072 * 100 + 100) + 9 * (100 * 100 + 100)
    assert parameters(model) == hidden + (100 * 10 + 10) + batch_norm * 10 * 2 * 100
    assert len(weight_matrices(model)) == 11
    assert mean_full_rank(model) == 100


def test_mean_full_rank_of_the_wide_mlp_is_the_papers():
    # MLP-5-5000 on CIFAR-10, on the meta device because it has 116 million parameters.
    with torch.device("meta"):
        model = build(Config(depth=5, width=5000))
    layers = [layer.weight.shape for layer in model if isinstance(layer, nn.Linear)]
    assert sum(min(shape) for shape in layers[:-1]) / 5 == pytest.approx(4614.4)


def test_the_first_matrix_on_the_digits_has_at_most_64_directions():
    model = build(Config(depth=5, width=100), (1, 8, 8))
    assert mean_full_rank(model) == (64 + 4 * 100) / 5


WEIGHT_NORM = Config(depth=3, width=20, batch_norm=False, weight_norm=True)


def test_weight_normalised_matrices_have_one_gain_each_and_an_ordinary_classifier():
    model = build(WEIGHT_NORM, (1, 8, 8))
    plain = build(replace(WEIGHT_NORM, weight_norm=False), (1, 8, 8))
    gains = [p for name, p in model.named_parameters() if name.endswith("weight.original0")]
    assert [gain.numel() for gain in gains] == [1, 1, 1]
    assert parameters(model) == parameters(plain) + 3
    assert isinstance(model.classifier.weight, nn.Parameter)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
    # It begins as the network without it, drawn from the same numbers.
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(images), plain(images))


def test_the_effective_weight_is_measured_and_follows_training():
    model = build(WEIGHT_NORM, (1, 8, 8)).double()
    matrices = weight_matrices(model)
    assert [m.name for m in matrices] == ["linear1", "linear2", "linear3", "classifier"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 1, 8, 8, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    features = images = np.random.default_rng(0).standard_normal((5, 64))
    for matrix in matrices[:-1]:
        gain, direction = (
            state[f"{matrix.name}.parametrizations.weight.original{i}"] for i in (0, 1)
        )
        weight = gain * direction / np.sqrt((direction**2).sum())
        np.testing.assert_allclose(matrix.view().numpy(), weight, rtol=1e-12)
        features = np.maximum(features @ weight.T + state[f"{matrix.name}.bias"], 0)
    logits = features @ state["classifier.weight"].T + state["classifier.bias"]
    found = model(torch.from_numpy(images).view(5, 1, 8, 8)).detach().numpy()
    np.testing.assert_allclose(found, logits, rtol=1e-10)


def test_no_bound_is_claimed_for_weight_normalised_matrices():
    model = build(WEIGHT_NORM, (1, 8, 8))
    applied = output_positions(model, weight_matrices(model), torch.zeros(1, 1, 8, 8))
    assert {name: use and use.positions for name, use in applied.items()} == {
        "linear1": None, "linear2": None, "linear3": None, "classifier": 1,
    }  # fmt: skip


def test_residual_mlp_has_the_parameters_of_its_definition():
    model = build(Config(model="resmlp", depth=4, width=30), (1, 8, 8))
    one = 30 * 30 + 30 + 2 * 30  # a linear layer with its BatchNorm
    assert parameters(model) == (64 * 30 + 30 + 2 * 30) + 4 * 2 * one + (30 * 10 + 10)
    assert mean_full_rank(model) == 30
    blocks = [module for module in model if isinstance(module, Block)]
    assert len({id(block.linear1) for block in blocks}) == 4, "no weights are shared"


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
def test_a_residual_block_adds_to_its_input(name, slope):
    torch.manual_seed(0)
    block = Block(6, name).double()
    block(torch.randn(50, 6, dtype=torch.float64))  # running statistics other than 0 and 1
    block.eval()
    state = {key: tensor.numpy() for key, tensor in block.state_dict().items()}

    def layer(x, i):
        x = x @ state[f"linear{i}.weight"].T + state[f"linear{i}.bias"]
        mean, variance = state[f"norm{i}.running_mean"], state[f"norm{i}.running_var"]
        scale, shift = state[f"norm{i}.weight"], state[f"norm{i}.bias"]
        return scale * (x - mean) / np.sqrt(variance + 1e-5) + shift

    x = np.random.default_rng(0).standard_normal((5, 6))
    inner = layer(x, 1)
    expected = x + layer(np.where(inner > 0, inner, slope * inner), 2)
    np.testing.assert_allclose(block(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12)


# -- convolutional networks


def test_convnet_5_1000_has_the_papers_matrices():
    model = build(Config(model="convnet", depth=5, width=1000))
    convolutions = (3 * 4 + 1) * 1000 + (4000 + 1) * 1000 + 5 * (9000 + 1) * 1000
    assert parameters(model) == convolutions + 64_000 * 10 + 10
    assert len([m for m in weight_matrices(model) if m.counted]) == 7
    assert mean_full_rank(model) == pytest.approx(858.9, abs=0.05)


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
def test_convnet_is_its_definition(name, slope):
    model = build(Config(model="convnet", depth=2, width=5, activation=name), (3, 13, 9)).double()
    state = model.state_dict()
    images = torch.randn(2, 3, 13, 9, dtype=torch.float64)

    def layer(x, path, **options):
        return functional.conv2d(x, state[f"{path}.weight"], state[f"{path}.bias"], **options)

    x = layer(layer(images, "reduce1", stride=2), "reduce2", stride=2)
    assert x.shape == (2, 5, 3, 2)
    x = torch.where(x > 0, x, slope * x)
    for path in ("conv1", "conv2"):
        x = layer(x, path, padding=1)
        x = torch.where(x > 0, x, slope * x)
    expected = x.reshape(2, -1) @ state["classifier.weight"].T + state["classifier.bias"]
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 11_173_962), ("resnet34", 21_282_122), ("resnet50", 23_520_842)],
)
def test_resnets_differ_from_torchvisions_in_the_stem_only(name, count):
    with torch.device("meta"):
        ours = build(Config(model=name))
        theirs = torchvision.models.get_model(name, num_classes=10)
    assert parameters(ours) == count == parameters(theirs) - 64 * 3 * (7 * 7 - 3 * 3)
    assert shapes(ours) == shapes(theirs) | {"conv1.weight": (64, 3, 3, 3)}


def test_mean_full_rank_of_resnet18_is_the_papers():
    assert mean_full_rank(build(Config(model="resnet18"))) == pytest.approx(227.47, abs=0.005)


def test_resnets_keep_the_resolution_in_the_stem():
    model = build(Config(model="resnet18"))
    seen = []
    model.layer1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    model(torch.randn(2, *CIFAR))
    assert seen == [(2, 64, 32, 32)]


@pytest.mark.parametrize("name", ["vgg11", "vgg13", "vgg16", "vgg19"])
def test_vggs_have_torchvisions_convolutions(name):
    with torch.device("meta"):
        ours = build(Config(model=name))
        theirs = torchvision.models.get_model(f"{name}_bn")
    assert shapes(ours.features) == shapes(theirs.features)
    assert parameters(ours) == parameters(theirs.features) + 512 * 10 + 10


def test_vgg16_has_the_papers_parameters_and_mean_full_rank():
    model = build(Config(model="vgg16"))
    assert parameters(model) == 14_728_266
    assert mean_full_rank(model) == pytest.approx(322.08, abs=0.005)
    pools = [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    assert len(pools) == 5


@pytest.mark.parametrize("size", [32, 64])
def test_vgg_is_torchvisions_features_averaged_and_classified(size):
    model = build(Config(model="vgg11", dropout=0.5)).eval()
    theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True)
    theirs.load_state_dict(model.features.state_dict())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        means = theirs.eval()(images).mean(dim=(2, 3))
        expected = means @ model.classifier.weight.T + model.classifier.bias
        torch.testing.assert_close(model(images), expected)


def test_dropout_of_vgg_acts_before_the_classifier_and_in_training_only():
    model = build(Config(model="vgg11", dropout=0.75, dataset="cifar10"))
    seen = []
    model.dropout.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    model.classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    images = torch.randn(4, *CIFAR)
    model(images)
    (before, after), given = seen
    assert given is after
    kept = after != 0
    torch.testing.assert_close(after[kept], 4 * before[kept])
    dropped = (~kept & (before != 0)).sum() / (before != 0).sum()
    assert float(dropped) == pytest.approx(0.75, abs=0.05)
    model.eval()
    assert torch.equal(model(images), model(images))


# -- vision transformer


def test_vit_has_the_parameters_of_its_definition_and_of_torchvisions():
    config = Config(
        model="vit", vit_patch=8, vit_depth=3, vit_heads=2, vit_width=24, vit_mlp_width=40
    )
    model = build(config, (1, 32, 32))
    width, hidden, tokens = 24, 40, 16 + 1
    attention = 3 * (width * width + width) + (width * width + width)
    feed_forward = (width * hidden + hidden) + (hidden * width + width)
    block = attention + feed_forward + 2 * 2 * width
    stem = (64 * width + width) + width + tokens * width
    assert parameters(model) == stem + 3 * block + 2 * width + (width * 10 + 10)

    theirs = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=40,
        num_classes=10,
    )  # fmt: skip
    assert shapes(model) == shapes(theirs) | {"conv_proj.weight": (24, 1, 8, 8)}


def test_vit_measures_the_projections_of_every_block():
    config = Config(model="vit", vit_depth=2, vit_heads=3, vit_width=12, vit_mlp_width=20)
    matrices = weight_matrices(build(config))
    blocks = [
        (f"encoder_layers_encoder_layer_{i}_{name}", shape, True)
        for i in range(2)
        for name, shape in (
            *((f"self_attention_{part}", (12, 12)) for part in ("q", "k", "v", "out_proj")),
            ("mlp_0", (20, 12)),
            ("mlp_3", (12, 20)),
        )
    ]
    expected = [("conv_proj", (12, 48), True), *blocks, ("heads_head", (10, 12), False)]
    assert [(m.name, m.shape, m.counted) for m in matrices] == expected


def test_vit_applies_its_matrices_once_for_each_token():
    config = Config(model="vit", vit_depth=1, vit_heads=3, vit_width=12, vit_mlp_width=20)
    model = build(config)
    applied = output_positions(model, weight_matrices(model), torch.zeros(1, *CIFAR))
    assert [use.positions for use in applied.values()] == [64, *(6 * [65]), 1]


def test_dropout_of_vit_is_in_every_block_and_in_training_only():
    model = build(Config(model="vit", vit_depth=2, dropout=0.3))
    places = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [module.p for module in places] == (1 + 2 * 3) * [0.3]
    images = torch.randn(2, *CIFAR)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


# -- mixed


def test_mixed_has_the_matrices_of_its_definition_in_two_parts():
    # As the paper's, 5 blocks of each kind and 256 wide, but for the size of the images.
    model = build(Config(model="mixed", depth=5, width=256), (3, 4, 4))
    matrices = weight_matrices(model, parts=FAMILIES["mixed"].parts)
    parts = {
        part: [m.shape for m in matrices if m.part == part]
        for part in ("", "convolutions", "linears")
    }
    assert parts[""] == [(256, 27), (256, 256 * 4 * 4), (10, 256)]
    assert parts["convolutions"] == [(256, 256 * 9)] * 10
    assert parts["linears"] == [(256, 256)] * 10
    biases, norms = 256 + 256 + 10 * 256 + 10, 2 * 256 * (1 + 10 + 1 + 10)
    weights = sum(rows * columns for rows, columns in (m.shape for m in matrices))
    assert parameters(model) == weights + biases + norms


def test_mixed_computes_its_formula_in_float64():
    model = build(Config(model="mixed", depth=2, width=6), (3, 4, 4)).double().eval()
    state = model.state_dict()

    def norm(x, name):
        running = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        return functional.batch_norm(x, *running, state[f"{name}.weight"], state[f"{name}.bias"])

    def convolved(x, name):
        return functional.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding=1)

    def linear(x, name, normed):
        x = functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
        return functional.layer_norm(x, (6,), state[f"{normed}.weight"], state[f"{normed}.bias"])

    images = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    x = norm(convolved(images, "stem"), "stem_norm").relu()
    for k in range(2):
        inner = norm(convolved(x, f"convolutions.{k}.conv1"), f"convolutions.{k}.bn1").relu()
        x = (x + norm(convolved(inner, f"convolutions.{k}.conv2"), f"convolutions.{k}.bn2")).relu()
    x = linear(x.flatten(1), "linear", "norm")
    for k in range(2):
        inner = linear(x, f"linears.{k}.linear1", f"linears.{k}.norm1").relu()
        x = x + linear(inner, f"linears.{k}.linear2", f"linears.{k}.norm2")
    expected = functional.linear(x, state["classifier.weight"], state["classifier.bias"])
    torch.testing.assert_close(model(images), expected)


# -- what all share


@pytest.mark.parametrize("name", [name for name in OF_IMAGES if name != "vit"])
def test_leaky_relu_replaces_every_relu(name):
    with torch.device("meta"):
        model = build(Config(model=name, activation="leaky_relu"))
    kinds = {type(module) for module in model.modules()}
    assert nn.LeakyReLU in kinds
    assert nn.ReLU not in kinds


@pytest.mark.parametrize("name", ["mlp", "vgg11", "vit"])
def test_a_seed_decides_the_weights(name):
    one, same = (build(Config(model=name)).state_dict() for _ in range(2))
    other = build_model(Config(model=name), CIFAR, 10).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
