"""Weight matrices of modules against what the modules compute and against independent counts.

Torchvision's models are counted from `named_parameters` and the types of their modules; views are
checked by applying them: the product with unfolded inputs must be the module's own output.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lowrank.common.errors import InputError
from lowrank.measure.matrices import describe, skipped_parameters, weight_matrices
from lowrank.measure.watcher import Watcher


def names(model, **options):
    return [m.name for m in weight_matrices(model, **options)]


def shapes(model, **options):
    return {m.name: m.shape for m in weight_matrices(model, **options)}


# --- torchvision -----------------------------------------------------------------------------

MODELS = [
    # name, weight matrices, skipped parameters, counted (None: all but one)
    pytest.param("resnet18", 21, 0, 17, id="resnet18"),
    pytest.param("resnet50", 54, 0, 49, id="resnet50"),
    pytest.param("mobilenet_v3_small", 54, 0, None, id="mobilenet_v3_small"),
    pytest.param("vgg16_bn", 16, 0, None, id="vgg16_bn"),
    pytest.param("vit_b_16", 12 * 6 + 2, 2, None, id="vit_b_16"),
    pytest.param("densenet121", 121, 0, None, id="densenet121"),
    pytest.param("swin_t", 12 * 4 + 5, 12, None, id="swin_t"),
    pytest.param("convnext_tiny", 18 * 3 + 5, 18, None, id="convnext_tiny"),
    pytest.param("inception_v3", 98, 0, None, id="inception_v3"),
    pytest.param("efficientnet_b0", 82, 0, None, id="efficientnet_b0"),
]


def torchvision_model(name):
    options = {"init_weights": False} if name == "inception_v3" else {}  # minutes of scipy
    return getattr(torchvision.models, name)(weights=None, **options)


@pytest.mark.parametrize(("name", "total", "skipped", "counted"), MODELS)
def test_torchvision_models_against_an_independent_count(name, total, skipped, counted):
    model = torchvision_model(name)
    expected, left = [], {}
    for path, parameter in model.named_parameters():
        owner = model.get_submodule(path.rpartition(".")[0])
        layer = path.rpartition(".")[0].replace(".", "_")
        kind = type(owner).__name__
        if kind in ("Linear", "NonDynamicallyQuantizableLinear", "Conv2d") and parameter.ndim > 1:
            expected.append((layer, path, (len(parameter), parameter[0].numel())))
        elif kind == "MultiheadAttention" and path.endswith("in_proj_weight"):
            shape = (len(parameter) // 3, parameter.shape[1])
            expected += [(f"{layer}_{part}", path, shape) for part in "qkv"]
        elif parameter.ndim > 1:
            left[path] = tuple(parameter.shape)

    matrices = weight_matrices(model)
    assert [(m.name, m.path, m.shape) for m in matrices] == expected
    assert {s.path: s.shape for s in skipped_parameters(model)} == left
    assert len(matrices) == total
    assert len(left) == skipped
    assert sum(m.counted for m in matrices) == (total - 1 if counted is None else counted)
    assert not matrices[-1].counted
    assert all(tuple(m.view().shape) == m.shape for m in matrices)
    longest = max(len(m.name) for m in matrices)
    assert max(map(len, describe(model).splitlines())) <= max(80, longest + 34)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        pytest.param("vit_b_16", {"token": 1, "position embedding": 1}, id="vit_b_16"),
        pytest.param("swin_t", {"position embedding": 12}, id="swin_t"),
        pytest.param("convnext_tiny", {"vector": 18}, id="convnext_tiny"),
    ],
)
def test_reasons_in_torchvision_models(name, reasons):
    assert Counter(s.reason for s in skipped_parameters(torchvision_model(name))) == reasons


def test_resnet18_for_cifar10_has_the_papers_mean_full_rank():
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, bias=False)
    counted = [min(m.shape) for m in weight_matrices(model) if m.counted]
    assert len(counted) == 17
    assert round(sum(counted) / 17, 2) == 227.47


# --- what a view means -----------------------------------------------------------------------

CONVOLUTIONS = [
    pytest.param(1, 4, 6, 3, 1, id="1d"),
    pytest.param(2, 4, 6, 3, 1, id="2d"),
    pytest.param(3, 2, 3, 2, 1, id="3d"),
    pytest.param(2, 4, 6, 3, 2, id="2d-grouped"),
    pytest.param(1, 6, 6, 3, 3, id="1d-grouped"),
    pytest.param(2, 4, 4, 3, 4, id="2d-depthwise"),
]


@pytest.mark.parametrize(("dims", "inputs", "outputs", "kernel", "groups"), CONVOLUTIONS)
def test_convolution_rows_give_the_outputs(dims, inputs, outputs, kernel, groups):
    conv = getattr(nn, f"Conv{dims}d")(inputs, outputs, kernel, groups=groups, bias=False)
    (matrix,) = weight_matrices(nn.Sequential(conv))
    assert matrix.shape == (outputs, inputs // groups * kernel**dims)
    patch = torch.randn(1, inputs, *[kernel] * dims)  # one output position
    by_rows = torch.cat(
        [
            rows @ part.flatten()
            for rows, part in zip(matrix.view().chunk(groups), patch.chunk(groups, 1), strict=True)
        ]
    )
    torch.testing.assert_close(by_rows, conv(patch).flatten())
    assert matrix.view().data_ptr() == conv.weight.data_ptr()  # no copy


@pytest.mark.parametrize(("dims", "inputs", "outputs", "kernel", "groups"), CONVOLUTIONS)
def test_transposed_convolution_has_output_channels_as_rows(dims, inputs, outputs, kernel, groups):
    conv = getattr(nn, f"ConvTranspose{dims}d")(inputs, outputs, kernel, groups=groups, bias=False)
    (matrix,) = weight_matrices(nn.Sequential(conv))
    assert matrix.shape == (outputs, inputs // groups * kernel**dims)
    pixel = torch.randn(1, inputs, *[1] * dims)  # spreads to one kernel
    rows = matrix.view().reshape(outputs, inputs // groups, *[kernel] * dims)
    by_rows = torch.cat(
        [
            torch.einsum("oi...,i->o...", block, part.flatten())
            for block, part in zip(rows.chunk(groups), pixel.chunk(groups, 1), strict=True)
        ]
    )
    torch.testing.assert_close(by_rows, conv(pixel)[0])


def test_bilinear_is_linear_in_the_products_of_its_inputs():
    module = nn.Bilinear(2, 3, 4, bias=False)
    (matrix,) = weight_matrices(nn.Sequential(module))
    assert matrix.shape == (4, 6)
    x, y = torch.randn(2), torch.randn(3)
    torch.testing.assert_close(matrix.view() @ torch.outer(x, y).flatten(), module(x, y))


@pytest.mark.parametrize("sizes", [{}, {"kdim": 6, "vdim": 10}], ids=["fused", "separate"])
def test_attention_gives_three_projections_and_the_output(sizes):
    attention = nn.MultiheadAttention(8, 2, bias=False, **sizes)
    model = nn.ModuleDict({"attention": attention, "head": nn.Linear(8, 2)})
    found = {m.name: m for m in weight_matrices(model)}
    assert {name: m.shape for name, m in found.items()} == {
        "attention_q": (8, 8),
        "attention_k": (8, sizes.get("kdim", 8)),
        "attention_v": (8, sizes.get("vdim", 8)),
        "attention_out_proj": (8, 8),
        "head": (2, 8),
    }
    # One key: every query attends to its value alone.
    k, v = (torch.randn(1, found[f"attention_{part}"].shape[1]) for part in "kv")
    output = attention(torch.randn(1, 8), k, v)[0]
    product = v @ found["attention_v"].view().T @ found["attention_out_proj"].view().T
    torch.testing.assert_close(output, product)
    assert {m.module for m in found.values()} == {"attention", "attention.out_proj", "head"}


def test_attention_with_extra_bias_rows_skips_them():
    skipped = skipped_parameters(nn.MultiheadAttention(8, 2, add_bias_kv=True))
    assert [(s.path, s.shape, s.reason) for s in skipped] == [
        ("bias_k", (1, 1, 8), "vector"),
        ("bias_v", (1, 1, 8), "vector"),
    ]


@pytest.mark.parametrize(
    ("module", "gates"), [(nn.LSTM, "ifgo"), (nn.GRU, "rzn"), (nn.RNN, "")], ids=lambda v: str(v)
)
def test_recurrent_gates_one_by_one(module, gates):
    rnn = module(3, 4, num_layers=2, bidirectional=True)
    ends = [f"_{gate}" for gate in gates] or [""]
    assert shapes(nn.ModuleDict({"rnn": rnn})) == {
        f"rnn_weight_{kind}_l{layer}{direction}{end}": (4, columns)
        for layer in (0, 1)
        for direction in ("", "_reverse")
        for kind, columns in (("ih", 8 if layer else 3), ("hh", 4))
        for end in ends
    }
    assert skipped_parameters(rnn) == []


def test_lstm_with_projection_and_the_order_of_its_gates():
    lstm = nn.LSTM(3, 4, proj_size=2)
    found = {m.name: m for m in weight_matrices(lstm)}
    assert found["weight_hh_l0_o"].shape == (4, 2)
    assert found["weight_hr_l0"].shape == (2, 4)
    assert torch.equal(found["weight_ih_l0_g"].view(), lstm.get_parameter("weight_ih_l0")[8:12])


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(cell):
    gates = {nn.LSTMCell: "ifgo", nn.GRUCell: "rzn"}.get(cell, "")
    ends = [f"_{gate}" for gate in gates] or [""]
    expected = [f"cell_weight_{kind}{end}" for kind in ("ih", "hh") for end in ends]
    assert names(nn.ModuleDict({"cell": cell(3, 4)})) == expected


def test_a_linear_layer_called_qkv_is_one_matrix():
    assert shapes(nn.ModuleDict({"qkv": nn.Linear(8, 24)})) == {"qkv": (24, 8)}


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (3, {"qkv_0": 8, "qkv_1": 8, "qkv_2": 8}),
        ("qkv", {"qkv_q": 8, "qkv_k": 8, "qkv_v": 8}),
        ({"query": 16, "key": 4, "value": 4}, {"qkv_query": 16, "qkv_key": 4, "qkv_value": 4}),
    ],
    ids=["number", "names", "rows"],
)
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_a_fused_projection_is_split_on_request(kind, parts, sizes):
    class Conv1D(nn.Module):  # as GPT-2 has it, with its inputs as rows
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(inputs, outputs))

    linear = {"Linear": nn.Linear, "Conv1D": Conv1D}[kind](8, 24)
    model = nn.Sequential(nn.ModuleDict({"qkv": linear, "out": nn.Linear(8, 8)}))
    found = weight_matrices(model, split={"*.qkv": parts}, exclude=f"0_{next(iter(sizes))}")
    assert {m.name: m.shape for m in found} == {
        **{f"0_{name}": (rows, 8) for name, rows in sizes.items()}, "0_out": (8, 8),
    }  # fmt: skip
    assert [m.counted for m in found] == [False, True, True, False]
    whole = linear.weight if kind == "Linear" else linear.weight.T
    assert torch.equal(torch.cat([m.view() for m in found[:3]]), whole)
    assert "0_qkv_2" in describe(model, split={"0.qkv": 3})


@pytest.mark.parametrize(
    ("split", "line"),
    [
        ({"qkv": 5}, "split: qkv.weight has 24 rows, got 5; allowed: a number of equal blocks of "
         "rows, their names, or the rows of each by name"),
        ({"qkv": 0}, "split: qkv.weight has 24 rows, got 0; "),
        ({"qkv": {"q": 16, "k": 4}}, "split: qkv.weight has 24 rows, got {'q': 16, 'k': 4}; "),
        ({"qkv": {"q": 32, "k": -8}}, "split: qkv.weight has 24 rows, got "),
        ({"attention": 3}, "split: attention.in_proj_weight is 3 matrices already"),
        ({"qkw": 3}, "split: 'qkw' is the name, path or glob of no weight matrix, did you mean"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(split, line):
    parts = {"qkv": nn.Linear(8, 24), "attention": nn.MultiheadAttention(8, 2)}
    with pytest.raises(InputError) as caught:
        weight_matrices(nn.ModuleDict(parts), split=split)
    assert caught.value.lines[0].startswith(line)


def test_a_subclass_is_known_by_its_base_class():
    class Mine(nn.Linear):
        pass

    assert shapes(nn.Sequential(Mine(3, 2))) == {"0": (2, 3)}


# --- reparametrised modules ------------------------------------------------------------------


class Scaled(nn.Module):
    """A parametrisation of the user's own."""

    def forward(self, weight):
        return 3 * weight


def scaled(module):
    parametrize.register_parametrization(module, "weight", Scaled())
    return module


REPARAMETRISED = [
    pytest.param(parametrizations.weight_norm, id="weight_norm"),
    pytest.param(parametrizations.spectral_norm, id="spectral_norm"),
    pytest.param(parametrizations.orthogonal, id="orthogonal"),
    pytest.param(scaled, id="own"),
    pytest.param(lambda m: scaled(parametrizations.weight_norm(m)), id="two-in-a-row"),
    pytest.param(nn.utils.weight_norm, id="old-weight_norm"),
    pytest.param(nn.utils.spectral_norm, id="old-spectral_norm"),
    pytest.param(lambda m: prune.random_unstructured(m, "weight", 0.5), id="pruned"),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("reparametrise", REPARAMETRISED)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("layer", [nn.Linear, nn.Conv2d], ids=["linear", "convolution"])
def test_the_effective_weight_is_read_without_changing_the_model(reparametrise, training, layer):
    torch.manual_seed(0)
    module = nn.Linear(6, 4, bias=False) if layer is nn.Linear else nn.Conv2d(2, 4, 3, bias=False)
    model = nn.Sequential(reparametrise(module), nn.Linear(4, 2)).train(training)
    first, _ = matrices = weight_matrices(model)
    assert [(m.name, m.path) for m in matrices] == [("0", "0.weight"), ("1", "1.weight")]
    assert skipped_parameters(model) == []

    with torch.no_grad():
        for parameter in model.parameters():  # as an optimiser step would
            parameter.mul_(1.5).add_(0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    view = first.view()
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(m.training is training for m in model.modules())
    assert not view.requires_grad

    # In evaluation mode a module's output shows its effective weight.
    inputs = torch.randn(3, 6) if layer is nn.Linear else torch.randn(3, 2, 3, 3)
    output = model.eval().get_submodule("0")(inputs).flatten(1)
    torch.testing.assert_close(inputs.flatten(1) @ view.T, output)


def test_a_view_follows_the_parameter():
    model = nn.Linear(3, 2)
    (matrix,) = weight_matrices(model)
    with torch.no_grad():
        model.weight.fill_(7)
    assert (matrix.view() == 7).all()
    model.to(torch.bfloat16)
    assert matrix.view().dtype == torch.bfloat16


# --- sharing, names, wrappers ----------------------------------------------------------------


def test_a_shared_module_and_a_shared_weight_are_listed_once_where_they_come_first():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 4), nn.Linear(4, 4))
    model[4].weight = model[3].weight
    assert names(model) == ["0", "3"]


def test_a_weight_tied_to_an_embedding_is_a_weight_matrix():
    model = nn.ModuleDict({"tokens": nn.Embedding(9, 4), "head": nn.Linear(4, 9)})
    model["head"].weight = model["tokens"].weight
    assert names(model) == ["head"]
    assert skipped_parameters(model) == []


def test_colliding_names_are_numbered():
    model = nn.ModuleDict(
        {
            "a": nn.ModuleDict({"b": nn.Linear(1, 1), "b_2": nn.Linear(1, 1)}),
            "a_b": nn.Linear(1, 1),
            "a_b_2": nn.Linear(1, 1),
        }
    )
    assert names(model) == ["a_b", "a_b_2", "a_b_3", "a_b_2_2"]
    assert [m.path for m in weight_matrices(model)] == [
        "a.b.weight",
        "a.b_2.weight",
        "a_b.weight",
        "a_b_2.weight",
    ]


def test_a_root_that_is_a_layer_itself():
    (matrix,) = weight_matrices(nn.Linear(3, 2))
    assert (matrix.name, matrix.path, matrix.module) == ("weight", "weight", "")
    assert names(nn.MultiheadAttention(4, 1)) == ["q", "k", "v", "out_proj"]


def small_model():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))


def test_wrappers_do_not_show_in_names(tmp_path):
    bare = weight_matrices(small_model())
    compiled: Any = torch.compile(small_model())
    partly = small_model()
    partly[1] = torch.compile(partly[1])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        distributed = nn.parallel.DistributedDataParallel(small_model())
        both = nn.parallel.DistributedDataParallel(torch.compile(small_model()))
        for model in (compiled, partly, distributed, both, nn.DataParallel(small_model())):
            assert weight_matrices(model) == bare
    finally:
        torch.distributed.destroy_process_group()


def test_a_submodule_called_module_keeps_its_name():
    assert names(nn.ModuleDict({"module": nn.Linear(2, 2)})) == ["module"]


# --- what is counted and skipped -------------------------------------------------------------


def test_counted_is_all_but_the_last_and_convolutions_in_shortcuts():
    block = nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 2, 3),
            "downsample": nn.Sequential(nn.Conv2d(2, 2, 1)),
            "shortcut": nn.ModuleDict({"conv": nn.Conv2d(2, 2, 1), "linear": nn.Linear(2, 2)}),
            "downsampler": nn.Conv2d(2, 2, 1),
        }
    )
    model = nn.ModuleDict({"block": block, "head": nn.Linear(2, 2)})
    assert {m.name: m.counted for m in weight_matrices(model)} == {
        "block_conv": True,
        "block_downsample_0": False,
        "block_shortcut_conv": False,
        "block_shortcut_linear": True,
        "block_downsampler": True,
        "head": False,
    }


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        pytest.param("1_0", ["0"], id="name"),
        pytest.param(["1.0.weight"], ["0"], id="path"),
        pytest.param(["1.0"], ["0"], id="module"),
        pytest.param(["1*", "0"], [], id="glob"),
    ],
)
def test_exclude_removes_from_counted_only(exclude, left):
    matrices = weight_matrices(small_model(), exclude=exclude)
    assert [m.name for m in matrices] == ["0", "1_0", "2"]
    assert [m.name for m in matrices if m.counted] == left


class Odd(nn.Module):
    """Parameters that no known module owns."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 5))
        self.pos_embed = nn.Parameter(torch.randn(1, 6, 4))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.codes = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
        self.bias = nn.Parameter(torch.ones(4))


def odd_model():
    return nn.ModuleDict(
        {
            "odd": Odd(),
            "tokens": nn.Embedding(5, 4),
            "norm": nn.LayerNorm((4, 4)),
            "none": nn.Linear(0, 3),
            "head": nn.Linear(4, 2),
        }
    )


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_reasons_for_skipping():
    assert [(s.path, s.shape, s.reason) for s in skipped_parameters(odd_model())] == [
        ("odd.weight", (3, 4, 5), "unknown parameter of Odd"),
        ("odd.pos_embed", (1, 6, 4), "position embedding"),
        ("odd.cls_token", (1, 1, 4), "token"),
        ("odd.scale", (4, 1, 1), "vector"),
        ("odd.codes", (2, 2), "values of type int8"),
        ("tokens.weight", (5, 4), "embedding"),
        ("norm.weight", (4, 4), "normalisation"),
        ("norm.bias", (4, 4), "normalisation"),
        ("none.weight", (3, 0), "has no elements"),
    ]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("include", "added"),
    [
        pytest.param("odd", {f"odd_{i}": (4, 5) for i in range(3)}, id="name"),
        pytest.param(["odd.pos_embed"], {"odd_pos_embed": (6, 4)}, id="leading-ones-dropped"),
        pytest.param(["odd.cls_token"], {"odd_cls_token": (1, 4)}, id="vector"),
        pytest.param(["tokens"], {"tokens": (5, 4)}, id="module"),
        pytest.param(
            ["*.weight"],
            {"odd_2": (4, 5), "tokens": (5, 4), "norm": (4, 4), "none": (3, 0)},
            id="glob",
        ),
    ],
)
def test_include_measures_what_would_be_skipped(include, added):
    model = odd_model()
    found = shapes(model, include=include)
    assert found.items() >= added.items() | {"head": (2, 4)}.items()
    assert not set(added) & {s.path for s in skipped_parameters(model, include=include)}


def test_describe():
    model = nn.ModuleDict(
        {"tokens": nn.Embedding(9, 8), "body": nn.Linear(8, 10), "head": nn.Linear(10, 5)}
    )
    assert describe(model).splitlines() == [
        "weight matrix  shape   full rank  rank_mean",
        "body           10 × 8          8  counted",
        "head           5 × 10          5  -",
        "2 weight matrices of mean full rank 6.5, 1 of them counted: 8",
        "",
        "skipped        shape  reason",
        "tokens.weight  9 × 8  embedding",
        "1 skipped; biases and other vectors are not listed",
    ]
    assert "3 weight matrices of mean full rank 7, 1 of them counted: 8" in describe(
        model, include="tokens", exclude="body"
    )


def test_describe_a_module_without_weights():
    assert "0 weight matrices" in describe(nn.ReLU())


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        pytest.param(
            {"exclude": ["1_O", "2"]},
            ["exclude: '1_O' is the name, path or glob of no weight matrix, did you mean '1_0'?"],
            id="exclude",
        ),
        pytest.param(
            {"include": ["token", "zzz*"]},
            [
                "include: 'token' is the name, path or glob of no parameter, "
                "did you mean 'tokens'?",
                "include: 'zzz*' is the name, path or glob of no parameter",
            ],
            id="include",
        ),
        pytest.param(
            {"exclude": "tokens"},
            ["exclude: 'tokens' is the name, path or glob of no weight matrix"],
            id="exclude-skipped",
        ),
    ],
)
def test_a_name_that_matches_nothing_is_an_error(options, lines):
    model = small_model()
    model.add_module("tokens", nn.Embedding(3, 2))
    with pytest.raises(InputError) as caught:
        weight_matrices(model, **options)
    assert caught.value.lines == lines


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        pytest.param(
            lambda: nn.LazyLinear(3),
            "module 'head' (LazyLinear) is lazy and not initialised: run one forward pass first",
            id="lazy",
        ),
        pytest.param(
            lambda: nn.LazyBatchNorm1d(),
            "module 'head' (LazyBatchNorm1d) is lazy and not initialised: "
            "run one forward pass first",
            id="lazy-normalisation",
        ),
        pytest.param(
            lambda: nn.Linear(3, 2, device="meta"),
            "module 'head' (Linear) is on the meta device and has no weights: load them first",
            id="meta",
        ),
        pytest.param(
            lambda: parametrizations.weight_norm(nn.Linear(3, 2, device="meta")),
            "module 'head' (ParametrizedLinear) is on the meta device and has no weights: "
            "load them first",
            id="meta-parametrised",
        ),
    ],
)
def test_a_module_without_values_is_named(layer, message):
    model = nn.ModuleDict({"body": nn.Linear(2, 3), "head": layer()})
    for call in (weight_matrices, skipped_parameters, describe):
        with pytest.raises(InputError) as caught:
            call(model)
        assert caught.value.lines == [message]


def test_only_1x1_convolutions_of_shortcuts_are_left_out_and_include_counts_them():
    model = nn.ModuleDict(
        {
            "downsample": nn.Sequential(nn.LayerNorm(2), nn.Conv2d(2, 2, 2, stride=2)),
            "shortcut": nn.Sequential(nn.Conv2d(2, 2, 1)),
            "head": nn.Linear(2, 2),
        }
    )
    assert [m.name for m in weight_matrices(model) if m.counted] == ["downsample_1"]
    assert [m.name for m in weight_matrices(model, include="shortcut.0") if m.counted] == [
        "downsample_1",
        "shortcut_0",
    ]
    assert [m.name for m in weight_matrices(model, exclude="downsample.1") if m.counted] == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("composition", "unknown parameter of One"),
        ("tokenizer_table", "unknown parameter of One"),
        ("relative_position_bias_table", "position embedding"),
        ("pos_embed", "position embedding"),
        ("cls_token", "token"),
    ],
)
def test_reasons_are_told_from_whole_words(name, reason):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_parameter(name, nn.Parameter(torch.ones(3, 4)))

    assert [s.reason for s in skipped_parameters(One())] == [reason]


# --- what a known module has no matrix of ------------------------------------------------------


def emptied(layer):
    layer.weight.data = torch.empty(0)
    return layer


def of_buffer(layer):
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    return layer


def of_zero(layer):
    emptied(layer).weight.ds_shape = (3, 4)
    return layer


def without(layer):
    layer.weight = None
    return layer


def replaced(layer, weight):
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


class Wrapped(torch.Tensor):
    """As quantisation libraries have them: values in a layout that only the class knows."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(str(func))

    def __repr__(self):
        return "Wrapped"


UNUSABLE = [
    pytest.param(emptied, "sharded elsewhere, or flat", id="FSDP1's shard"),
    pytest.param(of_zero, "sharded by ZeRO-3", id="ZeRO-3"),
    pytest.param(of_buffer, "a buffer, not a parameter of its Linear", id="buffer"),
    pytest.param(without, "its Linear has no weight", id="none"),
    pytest.param(
        lambda layer: replaced(layer, layer.weight.detach().to(torch.float8_e4m3fn)),
        "values of type float8_e4m3fn",
        id="float8",
    ),
    pytest.param(
        lambda layer: replaced(layer, layer.weight.detach().to_sparse()), "sparse", id="sparse"
    ),
    pytest.param(
        lambda layer: replaced(layer, Wrapped(layer.weight.detach())),
        "values in a Wrapped",
        id="tensor subclass",
    ),
    pytest.param(
        lambda layer: torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})[0],
        "quantised",
        id="quantize_dynamic",
        marks=pytest.mark.filterwarnings("ignore"),
    ),
]


@pytest.mark.parametrize(("change", "reason"), UNUSABLE)
def test_a_known_module_without_a_usable_matrix_is_listed_with_the_reason(change, reason):
    model = nn.ModuleDict({"body": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    model["body"] = change(model["body"])
    assert names(model) == ["head"]
    (skipped,) = skipped_parameters(model)
    assert skipped.path == "body.weight"
    assert reason in skipped.reason
    assert reason in describe(model)
    if reason.startswith("a buffer"):
        assert shapes(model, include="body.weight")["body"] == (3, 4)
    else:
        assert names(model, include="body.weight") == ["head"]
        with pytest.raises(InputError, match="has no weight matrix to measure") as caught:
            Watcher(nn.Sequential(model["body"]))
        assert any(reason in line for line in caught.value.lines)


def test_watching_no_matrix_is_refused():
    with pytest.raises(InputError, match="the module has no weight matrix to measure"):
        Watcher(nn.Sequential(nn.ReLU(), nn.LayerNorm((3, 3))))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_weight_normalised_module_that_is_then_pruned_is_measured_as_it_computes():
    layer = torch.nn.utils.weight_norm(nn.Linear(5, 4, bias=False))
    prune.l1_unstructured(layer, "weight_v", amount=0.5)
    (matrix,) = weight_matrices(nn.Sequential(layer))
    with torch.no_grad():
        layer.weight_v_orig.mul_(-2)
    layer(torch.eye(5))  # torch applies the mask a pass late: its hooks run in the order made
    expected = layer(torch.eye(5)).T
    assert torch.equal(matrix.view(), expected.detach())
    assert (matrix.view() == 0).sum() == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: replaced(m["body"], torch.zeros(7, 4)), r"of shape \(3, 4\) .* now \(7, 4\)"),
        (lambda m: emptied(m["body"]), r"of shape \(3, 4\) when it was watched and is now \(0,\)"),
        (lambda m: m.to("meta"), "is now on the meta device"),
        (lambda m: m.update({"body": nn.Linear(4, 3)}), "no longer has the module"),
    ],
    ids=["replaced", "emptied", "meta", "module replaced"],
)
def test_what_changed_after_watch_is_said_and_not_measured(change, message):
    model = nn.ModuleDict({"body": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    watcher = Watcher(model)
    watcher.measure(0)
    change(model)
    with pytest.raises(InputError, match=message) as caught:
        watcher.measure(1)
    assert "watch the model anew" in str(caught.value)


# --- stacks, and modules of one's own ----------------------------------------------------------


class OwnLinear(nn.Module):
    """A linear class of one's own, and parameters that multiply nothing or element by element."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 5))
        self.experts = nn.Parameter(torch.randn(3, 5, 4))
        self.scale = nn.Parameter(torch.randn(4, 4))
        self.unused = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        x = x @ self.kernel
        x = sum(nn.functional.linear(x, part.t()) for part in self.experts)
        return (x[:, None] * self.scale).sum(1)


def test_leading_dimensions_are_a_batch_of_matrices():
    module = OwnLinear()
    model = nn.Sequential(module, nn.Linear(4, 2))
    found = {m.name: m.view() for m in weight_matrices(model, include="0.experts")}
    assert list(found) == ["0_experts_0", "0_experts_1", "0_experts_2", "1"]
    for index in range(3):
        assert torch.equal(found[f"0_experts_{index}"], module.experts[index])
    stacked = nn.ParameterDict({"qkvo_w": nn.Parameter(torch.randn(2, 2, 5, 5))})
    assert shapes(stacked, include="qkvo_w") == {f"qkvo_w_{i}": (5, 5) for i in range(4)}


def test_an_example_shows_which_parameters_enter_matrix_products():
    model = nn.Sequential(OwnLinear(), nn.Linear(4, 2))
    example = torch.zeros(1, 6)
    assert names(model) == ["1"]
    assert names(model, example_input=example) == [
        "0_kernel",
        *(f"0_experts_{i}" for i in range(3)),
        "1",
    ]
    reasons = {s.path: s.reason for s in skipped_parameters(model, example_input=example)}
    unknown = "unknown parameter of OwnLinear that enters no matrix product"
    assert reasons == {"0.scale": unknown, "0.unused": unknown}
    assert unknown in describe(model, example_input=example)
    row = Watcher(model, example_input=example, include="0_experts").measure(0).metrics
    assert row["rank/0_kernel"] == 5


def test_an_example_with_sparse_operands_is_followed_too():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.Parameter(torch.randn(4, 3))
            self.fixed = nn.Parameter(torch.eye(5).to_sparse(), requires_grad=False)

        def forward(self, x):
            return torch.sparse.mm(self.fixed, x.repeat(5, 1) @ self.own)

    model = nn.ModuleList([Graph()])
    assert names(Graph(), example_input=torch.zeros(1, 4)) == ["own"]
    assert [s.reason for s in skipped_parameters(model)] == [
        "unknown parameter of Graph",
        "sparse",
    ]


def test_gpt2_and_mixtral_have_all_their_matrices():
    transformers = pytest.importorskip("transformers")
    ids = {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 1}
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, **ids)
    )
    found = {m.name: m for m in weight_matrices(gpt2)}
    assert len(found) == 9
    attention = gpt2.transformer.h[0].attn.c_attn
    assert torch.equal(found["transformer_h_0_attn_c_attn"].view(), attention.weight.T)
    mixtral = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=4,
            **ids,
        )
    )
    experts = 2 * 2 * 4  # layers, projections, experts
    assert len(names(mixtral)) == 2 * (4 + 1) + experts + 1
    assert [s.reason for s in skipped_parameters(mixtral)] == ["embedding"]
    assert shapes(mixtral)["model_layers_1_mlp_experts_down_proj_3"] == (16, 24)


def test_a_part_is_a_submodule_and_one_without_a_counted_matrix_is_refused():
    model = nn.ModuleDict(
        {"a": nn.ModuleDict({"b": nn.Linear(4, 3)}), "ab": nn.Linear(3, 3), "head": nn.Linear(3, 2)}
    )
    found = weight_matrices(model, parts=["a.b"])
    assert [(m.name, m.part) for m in found] == [("a_b", "a_b"), ("ab", ""), ("head", "")]
    with pytest.raises(InputError) as refused:
        weight_matrices(model, parts=["head", "ab", "c"])
    assert refused.value.lines == [
        f"parts: got '{part}', in which no matrix is counted; allowed: submodules with one"
        for part in ("head", "c")
    ]
