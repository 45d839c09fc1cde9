"""Products of attention against float64 SVDs of the whole product, and against a closed form.

The regularised factorisation: of min over A, B of ‖D − ABᵀ‖² + λ/2·(‖A‖² + ‖B‖²) the product has
the singular vectors of D and s_i = max(0, d_i − λ/2). For the least (‖A‖² + ‖B‖²)/2 of all factors
of one W = ABᵀ is its nuclear norm Σs_i, so that W minimises Σ(d_i − s_i)² + λΣs_i, where
2(s_i − d_i) + λ = 0 or s_i = 0. To SGD this is the loss ‖D − ABᵀ‖² with ``weight_decay`` λ, which
adds λA to the gradient.

timm is not installed here: a stand-in has the attributes of its Attention. So have others those of
Llama, BERT and GPT-2, which the slow tests take from transformers. Run with
``pytest tests/measure/test_attention.py``.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank.common.errors import InputError

RTOL = 1e-11  # of the largest singular value, in double precision


class Of(nn.Module):
    """A module of given attributes."""

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


class Conv1D(nn.Module):
    """As transformers': x W + b, with W (in, out)."""

    def __init__(self, out, into):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(into, out))
        self.bias = nn.Parameter(torch.zeros(out))


def linear(into, out):
    return nn.Linear(into, out)


def fused():
    return nn.MultiheadAttention(12, 3)


def of_other_widths():
    return nn.MultiheadAttention(12, 3, kdim=7, vdim=2, batch_first=True)


def timm():
    return Of(num_heads=3, head_dim=4, qkv=linear(12, 36), proj=linear(12, 12))


def llama():
    """Grouped: two heads of keys and values for four of queries, whose size is not width/heads."""
    return Of(
        config=SimpleNamespace(num_attention_heads=4, num_key_value_heads=2), head_dim=5,
        q_proj=linear(12, 20), k_proj=linear(12, 10), v_proj=linear(12, 10), o_proj=linear(20, 12),
    )  # fmt: skip


def bert():
    inner = Of(
        num_attention_heads=3, query=linear(12, 12), key=linear(12, 12), value=linear(12, 12)
    )
    return Of(attention=inner, output=Of(dense=linear(12, 12)))


def gpt2():
    return Of(num_heads=3, head_dim=4, c_attn=Conv1D(36, 12), c_proj=Conv1D(12, 12))


def expected(attention):
    """Returns the weights of queries, keys, values and output in numpy, as (rows, columns)."""
    a = attention
    if isinstance(a, nn.MultiheadAttention):
        into = (
            a.in_proj_weight.chunk(3)
            if a.in_proj_weight is not None
            else (a.q_proj_weight, a.k_proj_weight, a.v_proj_weight)
        )
        found = (*into, a.out_proj.weight)
    elif hasattr(a, "qkv"):
        found = (*a.qkv.weight.chunk(3), a.proj.weight)
    elif hasattr(a, "c_attn"):
        found = (*a.c_attn.weight.T.chunk(3), a.c_proj.weight.T)
    elif hasattr(a, "q_proj"):
        found = tuple(getattr(a, f"{n}_proj").weight for n in "qkvo")
    else:
        inner = a.attention if hasattr(a, "attention") else a.self
        found = tuple(x.weight for x in (inner.query, inner.key, inner.value, a.output.dense))
    return [weight.detach().double().numpy() for weight in found]


def assert_products(model, path, heads, groups, attention=None):
    prefix = f"{path}_"
    attention = attention or model.get_submodule(path)
    watcher = lowrank.watch(model, attention_products=True)
    row = watcher.log(0)
    query, key, value, output = expected(attention)
    size, of_value = len(query) // heads, len(value) // groups
    for head in range(heads):
        group = head * groups // heads
        q, k = query[size * head :][:size], key[size * group :][:size]
        o, v = output[:, of_value * head :][:, :of_value], value[of_value * group :][:of_value]
        for kind, whole, r in (("qk", q.T @ k, size), ("ov", o @ v, of_value)):
            name = f"{prefix}{kind}_{head}"
            true = np.linalg.svd(whole, compute_uv=False)
            found = row.spectra[name]
            assert len(found) == min(r, *whole.shape)
            assert np.allclose(found, true[: len(found)], rtol=0, atol=RTOL * true[0])
            assert np.all(true[len(found) :] <= RTOL * true[0])
            assert row[f"rank/{name}"] == (found / np.linalg.norm(true) > 1e-3).sum()
            assert f"distance/{name}" not in row
    kinds = [layer.kind for layer in watcher.derived.layers if layer.name.startswith(prefix)]
    assert kinds == ["qk"] * heads + ["ov"] * heads
    return row


@pytest.mark.parametrize(
    ("make", "groups"),
    [(fused, 3), (of_other_widths, 3), (timm, 3), (llama, 2), (bert, 3), (gpt2, 3)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_spectra_are_those_of_the_whole_products(make, groups):
    torch.manual_seed(0)
    heads = 4 if make is llama else 3
    model = Of(first=nn.Linear(12, 12), attention=make(), head=nn.Linear(12, 2))
    row = assert_products(model, "attention", heads, groups)
    plain = lowrank.watch(model).log(0)
    # They change nothing of what was.
    assert all(np.array_equal(row[name], plain[name], equal_nan=True) for name in plain)


def test_a_fused_projection_that_is_split_by_name_has_the_same_products():
    torch.manual_seed(0)
    model = Of(attention=timm(), head=nn.Linear(12, 2))
    whole = lowrank.watch(model, attention_products=True).log(0)
    split = lowrank.watch(model, attention_products=True, split={"*.qkv": "qkv"}).log(0)
    names = [name for name in whole.spectra if "_qk_" in name or "_ov_" in name]
    assert len(names) == 6
    assert all(np.array_equal(whole.spectra[name], split.spectra[name]) for name in names)


def test_the_regularised_factorisation_comes_to_its_closed_form():
    torch.manual_seed(0)
    decay, wanted = 1.0, torch.tensor([3.0, 1.5, 0.2], dtype=torch.float64)
    attention = nn.MultiheadAttention(6, 2, bias=False, dtype=torch.float64)

    def matrix_of(values):
        left, right = (torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64)).Q for _ in range(2))
        return left @ torch.diag(values) @ right.T

    targets = torch.stack([matrix_of(wanted + head) for head in range(4)])
    optimizer = torch.optim.SGD(attention.parameters(), lr=0.05, weight_decay=decay)
    for _ in range(280):
        query, key, value = attention.in_proj_weight.view(3, 2, 3, 6)
        output = attention.out_proj.weight.view(6, 2, 3).transpose(0, 1)
        loss = ((targets - torch.cat([query.mT @ key, output @ value])) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    spectra = lowrank.watch(attention, attention_products=True).log(0).spectra
    for place, name in enumerate(["qk_0", "qk_1", "ov_0", "ov_1"]):
        closed = np.maximum(0, wanted.numpy() + place - decay / 2)
        assert np.allclose(spectra[name], closed, rtol=0, atol=1e-6), name
    assert spectra["qk_0"][-1] < 1e-6  # 0.2 is below λ/2


def test_a_product_of_a_collapsed_matrix_has_no_rank_and_is_counted_once():
    torch.manual_seed(0)
    model = Of(attention=fused(), head=nn.Linear(12, 2))
    watcher = lowrank.watch(model, attention_products=True)
    watcher.log(0)
    with torch.no_grad():
        model.attention.in_proj_weight[:12] *= 1e-9  # the queries
    row = watcher.log(1)
    assert row["collapsed"] == 1
    assert np.isnan(row["rank/attention_qk_0"])
    assert row["rank/attention_ov_0"] == 4
    with torch.no_grad():
        model.attention.out_proj.weight[0, 0] = torch.inf
    row = watcher.log(2)
    assert np.isnan(row["rank/attention_ov_0"]) and np.isnan(row.spectra["attention_ov_0"]).all()


def test_a_record_has_the_products_beside_its_layers(tmp_path):
    model = Of(attention=fused(), head=nn.Linear(12, 2))
    with_products = {"record": tmp_path, "attention_products": True}
    watcher = lowrank.watch(model, **with_products)
    rows = [watcher.log(epoch) for epoch in range(2)]
    watcher.close()
    run = lowrank.load_run(tmp_path)
    assert [layer.name for layer in run.layers] == [layer.name for layer in watcher.layers]
    assert list(run.derived) == watcher.derived.layers
    assert {layer.kind for layer in run.layers} == {"weight"}
    for layer in run.derived:
        assert np.array_equal(run.spectra[layer.name], [r.spectra[layer.name] for r in rows])
        assert run.metrics[f"nuclear_rank/{layer.name}"].shape == (2,)
    watcher = lowrank.watch(model, resume=True, **with_products)
    watcher.close()
    with pytest.raises(InputError, match="other exclude, include, example_input, attention_prod"):
        lowrank.watch(model, record=tmp_path, resume=True)


def test_what_has_no_attention_that_is_known_is_refused_or_told_of():
    with pytest.raises(InputError, match=r"no attention that is known; allowed: torch\.nn\.Multi"):
        lowrank.watch(nn.Linear(3, 2), attention_products=True)
    odd = Of(num_heads=5, qkv=linear(12, 36), proj=linear(12, 12))
    with pytest.raises(InputError, match="odd: no products of this attention: 12 rows of queries"):
        lowrank.watch(Of(odd=odd), attention_products=True)
    with pytest.warns(UserWarning, match="odd: no products of this attention"):
        watcher = lowrank.watch(Of(odd=odd, attention=fused()), attention_products=True)
    assert len(watcher.derived.layers) == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Llama", "Bert", "GPT2"])
def test_those_of_transformers_are_read(name):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 4, "vocab_size": 9}
    if name != "GPT2":
        sizes["intermediate_size"] = 32
    grouped = {"num_key_value_heads": 2} if name == "Llama" else {}
    config = getattr(transformers, f"{name}Config")(**sizes, **grouped)
    model = getattr(transformers, f"{name}Model")(config)
    if name == "GPT2":
        path, module = "h_0_attn", model.h[0].attn
    elif name == "Llama":
        path, module = "layers_0_self_attn", model.layers[0].self_attn
    else:
        path, module = "encoder_layer_0_attention", model.encoder.layer[0].attention
    assert_products(model, path, 4, 2 if grouped else 4, module)
