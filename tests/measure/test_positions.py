"""Positions and groups against counts by hand, the shapes of outputs and torchvision's geometry.

That a gradient's rank is at most positions × groups × batch is tested in test_bounds.py.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_sequence

from lowrank.common.errors import InputError
from lowrank.measure.matrices import weight_matrices
from lowrank.measure.positions import Applied, output_positions


def positions(model, example_input, **options):
    """Positions by layer; positions and groups where there are several groups."""
    found = output_positions(model, weight_matrices(model), example_input, **options)
    plain = {}
    for name, applied in found.items():
        is_single = applied is None or applied.groups == 1
        plain[name] = (
            (applied and applied.positions) if is_single else tuple(vars(applied).values())
        )
    return plain


# --- single layers ---------------------------------------------------------------------------

LAYERS = [
    pytest.param(nn.Linear(4, 3), (5, 4), {"weight": 1}, id="linear on a vector"),
    pytest.param(nn.Linear(4, 3), (5, 7, 4), {"weight": 7}, id="linear per token"),
    pytest.param(nn.Linear(4, 3), (5, 2, 6, 4), {"weight": 12}, id="linear per pixel"),
    pytest.param(nn.Conv1d(4, 3, 3), (5, 4, 10), {"weight": 8}, id="conv1d"),
    pytest.param(nn.Conv2d(4, 3, 3, 2, 1), (5, 4, 9, 7), {"weight": 20}, id="padding, stride"),
    pytest.param(nn.Conv2d(4, 6, 3, groups=2), (5, 4, 9, 7), {"weight": (35, 2)}, id="groups"),
    pytest.param(nn.Conv2d(4, 8, 3, groups=4), (5, 4, 9, 7), {"weight": (35, 4)}, id="depthwise"),
    pytest.param(
        nn.Conv2d(4, 3, 3, padding="same", padding_mode="circular"),
        (5, 4, 9, 7), {"weight": 63}, id="circular padding",
    ),
    pytest.param(nn.Conv3d(4, 3, 2), (5, 4, 3, 4, 5), {"weight": 24}, id="conv3d"),
    pytest.param(
        nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), (5, 4, 3, 4), {"weight": 48}, id="transposed"
    ),
    pytest.param(
        nn.ConvTranspose1d(6, 4, 3, groups=2), (5, 6, 3), {"weight": (5, 2)}, id="transposed groups"
    ),
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("layer", "shape", "expected"), LAYERS)
def test_single_layer(layer, shape, expected, batch):
    assert positions(layer, torch.zeros(batch, *shape[1:])) == expected


def test_bilinear_and_a_tuple_of_inputs():
    model = nn.Bilinear(3, 4, 5)
    assert positions(model, (torch.zeros(6, 3), torch.zeros(6, 4))) == {"weight": 1}


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_recurrent_modules_apply_every_gate_at_every_step(kind, batch_first):
    model = kind(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = torch.zeros(6, 9, 3) if batch_first else torch.zeros(9, 6, 3)
    found = positions(model, x, batch_dim=0 if batch_first else 1)
    assert len(found) == 8 * {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[kind]
    assert set(found.values()) == {9}


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_the_projection_of_an_lstm():
    found = positions(nn.LSTM(3, 4, proj_size=2), torch.zeros(9, 1, 3), batch_dim=1)
    assert found["weight_hr_l0"] == 9


def test_packed_sequences():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, x):
            return self.rnn(pack_sequence(list(x)))

    assert set(positions(Packed(), torch.zeros(3, 5, 3)).values()) == {5}


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_are_applied_once_per_call(kind):
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = kind(3, 4)

        def forward(self, x):
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return state

    assert set(positions(kind(3, 4), torch.zeros(6, 3)).values()) == {1}
    assert set(positions(Steps(), torch.zeros(6, 7, 3)).values()) == {7}


# --- attention -------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{}, {"kdim": 3, "vdim": 5}], ids=["fused", "separate"])
@pytest.mark.parametrize("layout", ["batch first", "time first", "unbatched"])
def test_attention(layout, sizes):
    model = nn.MultiheadAttention(8, 2, batch_first=layout == "batch first", **sizes)
    key, value = sizes.get("kdim", 8), sizes.get("vdim", 8)
    inputs = [torch.zeros(6, n, d) for n, d in [(4, 8), (7, key), (7, value)]]
    if layout == "time first":
        inputs = [x.transpose(0, 1) for x in inputs]
    elif layout == "unbatched":
        inputs = [x[0] for x in inputs]
    batch_dim = {"batch first": 0, "time first": 1, "unbatched": None}[layout]
    expected = {"q": 4, "k": 7, "v": 7, "out_proj": 4}
    assert positions(model, inputs, batch_dim=batch_dim) == expected


def test_transformer_layers_are_counted_off_their_inference_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    enabled = torch.backends.mha.get_fastpath_enabled()
    found = positions(model, torch.zeros(3, 5, 8))
    assert len(found) == 2 * 6
    assert set(found.values()) == {5}
    assert torch.backends.mha.get_fastpath_enabled() == enabled


# --- uses ------------------------------------------------------------------------------------


class Use(nn.Module):
    """Two Linear layers, used as a test says."""

    def __init__(self, use):
        super().__init__()
        self.use = use
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.use(self, x)


X = torch.zeros(3, 5, 4)
USES = [
    pytest.param(lambda m, x: m.a(m.a(x)), {"a": 10, "b": None}, id="called twice, b never"),
    pytest.param(lambda m, x: m.b(m.a(x)[:, 0]), {"a": 5, "b": 1}, id="one token goes on"),
    pytest.param(lambda m, x: m.a(x.reshape(-1, 4)), {"a": 5, "b": None}, id="windows as batch"),
    pytest.param(lambda m, x: m.a(x) + m.b(torch.ones(2, 4)).sum(), {"a": 5, "b": 2}, id="table"),
    pytest.param(
        lambda m, x: functional.linear(input=x, weight=m.a.weight),
        {"a": 5, "b": None}, id="functional, keywords",
    ),
    pytest.param(lambda m, _: m.a(m.a.weight.new_zeros(2, 4)), {"a": 2, "b": None}, id="new_zeros"),
    pytest.param(lambda m, x: x @ m.a.weight.T, {"a": None, "b": None}, id="unknown: matmul"),
    pytest.param(
        lambda m, x: m.a(x) + m.a.weight.norm() + m.b(x), {"a": None, "b": 5}, id="unknown: penalty"
    ),
    pytest.param(
        lambda m, _: functional.linear(m.a.weight, m.b.weight),
        {"a": None, "b": 4}, id="a weight as the input of another",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("use", "expected"), USES)
def test_uses(use, expected):
    assert positions(Use(use), X) == expected


def test_a_shared_weight_sums_its_uses():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert positions(model, X) == {"0": 10}


def test_a_weight_tied_to_an_embedding_counts_lookups():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    assert positions(model, torch.zeros(3, 5, dtype=torch.long)) == {"1": 10}


def old_weight_norm(layer):
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(parametrizations.weight_norm, id="weight_norm"),
        pytest.param(old_weight_norm, id="old weight_norm"),
        pytest.param(parametrizations.spectral_norm, id="spectral_norm"),
        pytest.param(nn.utils.spectral_norm, id="old spectral_norm"),
        pytest.param(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), id="pruned"),
    ],
)
def test_nothing_is_claimed_of_a_parametrised_weight(change):
    model = nn.Sequential(change(nn.Linear(4, 4)), nn.Linear(4, 4))
    assert positions(model, X) == {"0": None, "1": 5}


# --- whole networks --------------------------------------------------------------------------


def pixels_of_outputs(model, image):
    """Positions and groups of convolutions from the sizes of their outputs, by hooks."""
    sizes = {}

    def note(module, _, output):
        sizes[module] = Applied(output.shape[2] * output.shape[3], module.groups)

    convolutions = {m: path for path, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for module in convolutions:
        module.register_forward_hook(note)
    with torch.no_grad():
        model.eval()(image)
    return {path.replace(".", "_"): sizes[module] for module, path in convolutions.items()}


@pytest.mark.parametrize(
    ("name", "spot_checks"),
    [
        pytest.param(
            "resnet18",
            {"conv1": 112**2, "layer1_0_conv1": 56**2, "layer4_0_downsample_0": 7**2, "fc": 1},
            id="resnet18",
        ),
        pytest.param(
            "mobilenet_v3_small",
            {"features_0_0": 112**2, "features_1_block_1_fc1": 1, "classifier_3": 1},
            id="mobilenet_v3_small",
        ),
        pytest.param(
            "convnext_tiny",
            {"features_0_0": 56**2, "features_1_0_block_3": 56**2, "classifier_2": 1},
            id="convnext_tiny",
        ),
    ],
)
def test_convolutional_networks(name, spot_checks):
    model = getattr(torchvision.models, name)(weights=None)
    found = output_positions(model, weight_matrices(model), torch.zeros(2, 3, 224, 224))
    for layer, expected in spot_checks.items():
        assert found[layer].positions == expected
    convolutions = pixels_of_outputs(model, torch.zeros(1, 3, 224, 224))
    assert {layer: found[layer] for layer in convolutions} == convolutions
    assert all(found.values())


def test_a_small_vision_transformer():
    model = torchvision.models.VisionTransformer(16, 4, 2, 2, 8, 16)  # 16 patches, a class token
    found = positions(model, torch.zeros(2, 3, 16, 16))
    assert found.pop("conv_proj") == 16
    assert found.pop("heads_head") == 1
    assert len(found) == 2 * 6
    assert set(found.values()) == {17}


def test_vit_b_16():
    model = torchvision.models.vit_b_16(weights=None)
    found = positions(model, torch.zeros(2, 3, 224, 224))
    assert (found.pop("conv_proj"), found.pop("heads_head")) == (196, 1)
    assert set(found.values()) == {197}


@pytest.mark.parametrize(("name", "window"), [("swin_t", 7), ("swin_v2_t", 8)])
def test_swin_counts_windows_of_one_sample(name, window):
    model = getattr(torchvision.models, name)(weights=None)
    found = positions(model, torch.zeros(2, 3, 32 * window, 32 * window))
    assert (found["features_0_0"], found["head"]) == ((8 * window) ** 2, 1)
    for stage, side in [(1, 8 * window), (3, 4 * window), (5, 2 * window), (7, window)]:
        block = f"features_{stage}_0"
        for layer in ("attn_qkv", "attn_proj", "mlp_0", "mlp_3"):
            assert found[f"{block}_{layer}"] == side**2
        if name == "swin_v2_t":  # its table of offsets within a window is shared by all samples
            assert found[f"{block}_attn_cpb_mlp_0"] == (2 * window - 1) ** 2
        if stage < 7:
            assert found[f"features_{stage + 1}_reduction"] == (side // 2) ** 2
    assert None not in found.values()


# --- the model is left as it was -------------------------------------------------------------


class Restless(nn.Module):
    """Draws, counts its calls in buffers, and fails when told to."""

    def __init__(self, fails):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.fails = fails
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.total = self.total + 1
        y = self.norm(self.linear(functional.dropout(x, training=True)))
        if self.fails:
            raise RuntimeError("failed as told")
        return y


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_nothing_is_changed(fails):
    model = Restless(fails)
    model.norm.eval()
    model.linear(torch.zeros(3, 4)).sum().backward()
    before = copy.deepcopy(model)
    gradients = [p.grad for p in model.parameters()]
    generator, buffers = torch.get_rng_state(), dict(model.named_buffers())
    if fails:
        with pytest.raises(RuntimeError, match="failed as told"):
            positions(model, torch.zeros(3, 4))
    else:
        assert positions(model, torch.zeros(3, 4)) == {"linear": 1}
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.state_dict().items())
    assert all(dict(model.named_buffers())[name] is buffer for name, buffer in buffers.items())
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_wrapped_and_compiled_modules():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    compiled = nn.Sequential(torch.compile(inner), nn.Linear(4, 2))
    compiled[1].compile()
    assert positions(torch.compile(compiled), X) == {"0_0": 5, "1": 5}
    assert positions(nn.DataParallel(inner), X) == {"0": 5}


def test_a_mapping_of_keyword_arguments():
    class Named(nn.Linear):
        def forward(self, *, tokens):
            return super().forward(tokens)

    assert positions(Named(4, 4), {"tokens": X}) == {"weight": 5}


@pytest.mark.parametrize(
    ("example_input", "options", "message"),
    [
        (torch.zeros(0, 4), {}, r"samples along dimension 0, got the shape \(0, 4\)"),
        (torch.zeros(4), {"batch_dim": 1}, r"samples along dimension 1, got the shape \(4,\)"),
        ((), {}, "one or more tensors, got none"),
        ((X, [1]), {}, "one or more tensors, got Tensor, list"),
    ],
    ids=["no samples", "no dimension", "nothing", "a list inside"],
)
def test_a_bad_example_input_is_refused(example_input, options, message):
    with pytest.raises(InputError, match=message):
        positions(nn.Linear(4, 4), example_input, **options)
