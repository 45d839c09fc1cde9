"""Matrices read from files against the live modules that the files were saved from.

Files are written by torch.save, safetensors and our own checkpoints, as their users write them;
damage is done to real files. Memory is what the kernel says of a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lowrank.common.errors import InputError
from lowrank.config.arguments import parse
from lowrank.measure.matrices import weight_matrices
from lowrank.models import FAMILIES, build_model
from lowrank.runs import checkpoints
from lowrank.views.spectra.weights import Weights, read_weights

KNOWN = (nn.Linear, nn.Conv2d)


def small() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def trained(model: nn.Module) -> torch.optim.Optimizer:
    """Returns an optimiser whose state holds tensors of the weights' shapes."""
    optimizer = torch.optim.Adam(model.parameters())
    sum(p.square().sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    return optimizer


def assert_views_of(weights: Weights, model: nn.Module, ordered: bool = True) -> None:
    """The matrices are the model's convolutions and linear layers, bit for bit."""
    modules = [(path, m) for path, m in model.named_modules() if isinstance(m, KNOWN)]
    if not ordered:
        modules.sort(key=lambda item: item[0])
    assert [m.path for m in weights.matrices] == [f"{path}.weight" for path, _ in modules]
    assert [m.name for m in weights.matrices] == [path.replace(".", "_") for path, _ in modules]
    for matrix, (_, module) in zip(weights.matrices, modules, strict=True):
        weight = module.weight.detach()
        assert isinstance(weight, Tensor)
        assert matrix.shape == (len(weight), weight[0].numel())
        assert torch.equal(matrix.view(), weight.reshape(len(weight), -1))


@pytest.mark.parametrize("model", [None, "resnet18"], ids=["no model", "model=resnet18"])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_matrices_are_those_of_the_saved_module(tmp_path: Path, form: str, model: str | None):
    network = torchvision.models.resnet18(num_classes=7)  # not the 1000 classes of the name
    path = tmp_path / f"model.{form}"
    (torch.save if form == "pt" else save_file)(network.state_dict(), path)
    weights = read_weights(path, model=model)
    # safetensors files are sorted by name; a model brings its own order.
    assert_views_of(weights, network, ordered=form == "pt" or model is not None)
    assert weights.model == model
    assert weights.skipped == []
    expected = [m.counted for m in weight_matrices(network)] if model else [False] * 21
    assert [m.counted for m in weights.matrices] == expected


def test_attention_is_three_matrices_with_a_model_and_one_without(tmp_path: Path):
    network = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=12, num_heads=1, hidden_dim=6, mlp_dim=5
    )
    torch.save(network.state_dict(), tmp_path / "vit.pt")
    fused = network.encoder.layers[0].self_attention.in_proj_weight.detach()

    true = {m.name: m for m in read_weights(tmp_path / "vit.pt", model="vit_b_16").matrices}
    layer = "encoder_layers_encoder_layer_0_self_attention"
    for index, part in enumerate("qkv"):
        assert torch.equal(true[f"{layer}_{part}"].view(), fused[6 * index : 6 * index + 6])
    assert len(true) == 1 + 12 * 6 + 1

    plain = {m.name: m for m in read_weights(tmp_path / "vit.pt").matrices}
    assert torch.equal(plain[f"{layer}_in_proj_weight"].view(), fused)


def test_bundled_model_by_its_configuration(tmp_path: Path):
    config = "{model: mlp, depth: 2, width: 5}"
    network = build_model(parse(["--config", config], environ={}), (1, 4, 4), 3)
    torch.save(network.state_dict(), tmp_path / "mlp.pt")
    weights = read_weights(tmp_path / "mlp.pt", model=config)
    assert_views_of(weights, network)
    assert [m.counted for m in weights.matrices] == [True, True, False]


BUNDLED = {
    **{name: f"{{model: {name}}}" for name, family in FAMILIES.items() if not family.text},
    "gpt": "{model: gpt, dataset: text}",
    "mlp without BatchNorm": "{model: mlp, depth: 2, batch_norm: False}",
    "weight-normalised mlp": "{model: mlp, depth: 2, batch_norm: False, weight_norm: True}",
    "vgg16 with dropout": "{model: vgg16, dropout: 0.5}",
    "vit with patches that do not divide 32": "{model: vit, dataset: imagefolder, vit_patch: 5}",
}


@pytest.mark.parametrize("config", BUNDLED.values(), ids=BUNDLED.keys())
def test_every_bundled_model_is_read(tmp_path: Path, config: str):
    # Of another number of channels, classes and another size than those assumed for the name.
    shape = (40,) if "gpt" in config else (1, 40, 40)
    network = build_model(parse(["--config", config], environ={}), shape, 3)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    weights = read_weights(tmp_path / "model.pt", model=config)
    live = weight_matrices(network)
    assert [(m.name, m.shape, m.counted) for m in weights.matrices] == [
        (m.name, m.shape, m.counted) for m in live
    ]
    for stored, matrix in zip(weights.matrices, live, strict=True):
        assert torch.equal(stored.view(), matrix.view())


@pytest.mark.parametrize("name", ["resmlp", "convnet", "vgg11", "vit", "gpt"])
def test_a_bundled_model_is_known_by_its_name(tmp_path: Path, name: str):
    shape, text = ((9,), ["--dataset=pydoc"]) if name == "gpt" else ((3, 32, 32), [])
    network = build_model(parse([f"--model={name}", *text], environ={}), shape, 10)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    found = read_weights(tmp_path / "model.pt", model=name).matrices
    assert [m.counted for m in found] == [m.counted for m in weight_matrices(network)]
    assert found[-1].shape[0] == 10


NESTS: dict[str, Callable[[nn.Module], Any]] = {
    "state_dict": lambda m: {"state_dict": m.state_dict(), "epoch": 3},
    "model beside optimizer": lambda m: {
        "optimizer": trained(m).state_dict(),
        "model": m.state_dict(),
    },
    "model beside a table": lambda m: {"table": torch.ones(9, 9), "model": m.state_dict()},
    "unknown name": lambda m: {"mine": m.state_dict(), "args": {"lr": 0.1}},
    "two deep": lambda m: {"trainer": {"network": m.state_dict()}},
    "DataParallel": lambda m: nn.DataParallel(m).state_dict(),
    "compiled": lambda m: {f"_orig_mod.{k}": v for k, v in m.state_dict().items()},
    "both": lambda m: {f"module._orig_mod.{k}": v for k, v in m.state_dict().items()},
    "averaged": lambda m: AveragedModel(m).state_dict(),
    "parameters": lambda m: dict(m.named_parameters()),
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS.keys())
def test_state_dict_is_found(tmp_path: Path, nest: Callable[[nn.Module], Any]):
    network = small()
    torch.save(nest(network), tmp_path / "checkpoint.pth")
    assert_views_of(read_weights(tmp_path / "checkpoint.pth"), network)


def test_model_is_found_under_any_prefix(tmp_path: Path):
    network = torchvision.models.squeezenet1_1(num_classes=4)
    state = {f"model.{k}": v for k, v in network.state_dict().items()}  # as of Lightning
    state["loss.weight"] = torch.ones(3, 2)
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    weights = read_weights(tmp_path / "last.ckpt", model="squeezenet1_1")
    assert_views_of(weights, network)
    assert [(s.path, s.reason) for s in weights.skipped] == [
        ("loss.weight", "not in squeezenet1_1")
    ]


def test_format_before_torch_1_6(tmp_path: Path):
    network = small()
    torch.save(network.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_views_of(read_weights(tmp_path / "old.pt"), network)


def test_safetensors_are_in_the_order_of_their_numbers(tmp_path: Path):
    save_file({f"h.{i}.weight": torch.ones(2, 2) for i in range(12)}, tmp_path / "x.safetensors")
    names = [m.name for m in read_weights(tmp_path / "x.safetensors").matrices]
    assert names == [f"h_{i}" for i in range(12)]


def test_shared_weight_is_listed_once(tmp_path: Path):
    weight = torch.randn(4, 3)
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "tied.pt")
    weights = read_weights(tmp_path / "tied.pt")
    assert [m.name for m in weights.matrices] == ["a"]
    assert [(s.path, s.reason) for s in weights.skipped] == [
        ("b.weight", "the same tensor as a.weight")
    ]


def test_skipped_tensors_and_their_reasons(tmp_path: Path):
    ones = torch.ones(2, 3)
    reasons = {
        "table": (ones, "its name does not say weight"),
        "conv.weight_v": (ones, "part of a parametrised or quantised weight"),
        "fc.parametrizations.weight.original0": (
            ones,
            "part of a parametrised or quantised weight",
        ),
        "int.weight": (ones.to(torch.int8), "values of type int8"),
        "float8.weight": (ones.to(torch.float8_e4m3fn), "values of type float8_e4m3fn"),
        "sparse.weight": (ones.to_sparse(), "sparse"),
        "empty.weight": (torch.ones(0, 3), "has no elements"),
    }
    state = {path: tensor for path, (tensor, _) in reasons.items()}
    torch.save(
        state | {"a.b.weight": ones, "a_b.weight": ones[:, :1], "bias": ones[0]}, tmp_path / "x"
    )
    weights = read_weights(tmp_path / "x")
    assert [(m.name, m.shape) for m in weights.matrices] == [("a_b", (2, 3)), ("a_b_2", (2, 1))]
    assert {s.path: s.reason for s in weights.skipped} == {p: r for p, (_, r) in reasons.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_types_are_kept(tmp_path: Path, dtype: torch.dtype):
    weight = torch.randn(3, 2).to(dtype)
    for path, save in ((tmp_path / "a.pt", torch.save), (tmp_path / "a.safetensors", save_file)):
        save({"fc.weight": weight}, path)
        assert torch.equal(read_weights(path).matrices[0].view(), weight)


def run_directory(path: Path, **state: Any) -> nn.Module:
    config = parse(["--depth=2", "--width=6"], environ={})
    network = build_model(config, (1, 8, 8), 10)
    path.mkdir()
    (path / "config.yaml").write_text(config.to_yaml())
    checkpoints.save(path / "checkpoint.pt", {"model": network.state_dict(), "watcher": {}} | state)
    return network


@pytest.mark.parametrize("given", [".", "checkpoint.pt"])
def test_run_directory_knows_its_model(tmp_path: Path, given: str):
    previous = {"linear1": torch.ones(6, 64)}  # not the weights of now
    watcher = {"first_norms": {"linear1": 3.0}, "previous": previous}
    network = run_directory(tmp_path / "run", watcher=watcher)
    weights = read_weights(tmp_path / "run" / given)
    assert_views_of(weights, network)
    assert weights.model == "mlp"
    assert weights.largest_norms == {"linear1": 3.0}


def test_one_changed_bit_in_a_runs_checkpoint_is_noticed(tmp_path: Path):
    run_directory(tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_weights(tmp_path / "run")


def refusal(path: Path, model: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_weights(path, model=model)
    return "\n".join(caught.value.lines)


class Mine(nn.Linear):
    """A class of the user's, which only her own code can make."""


class Harmful:
    """What runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_harmful_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool):
    marker = tmp_path / "was_run"
    content = {"fc.weight": torch.ones(2, 2), "extra": Harmful(marker)}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    said = refusal(tmp_path / "x.pt")
    assert "could run code" in said and "system" in said and "torch.save(model.state_dict()" in said
    assert not marker.exists()
    torch.load(tmp_path / "x.pt", weights_only=False)  # the file does what is feared of it
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: Mine(2, 3), r"test_weights\.Mine; if you trust its source, save"),
        (lambda: torch.ones(3, 3), "holds a Tensor, not a state dict"),
        (lambda: {"epoch": 3}, "holds no tensor of two or more dimensions"),
        (lambda: {"bias": torch.ones(3)}, "holds no tensor of two or more dimensions"),
        (lambda: {"a": small().state_dict(), "b": small().state_dict()}, "tensors under a, b, and"),
        (
            lambda: {"fc.weight": torch.ones(2, 2, dtype=torch.int8)},
            r"no weight matrix among its 1 tensors\nskipped fc.weight .*: values of type int8",
        ),
    ],
    ids=["module", "tensor", "numbers", "vectors", "two", "quantised"],
)
def test_content_without_weights_is_refused(tmp_path: Path, content: Callable[[], Any], said: str):
    torch.save(content(), tmp_path / "x.pt")
    assert re.search(said, refusal(tmp_path / "x.pt"))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(tmp_path: Path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
    assert "is a TorchScript program" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("left", [1, 8, 40, 2000, -1], ids=lambda n: f"{n} bytes")
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_file_is_refused(tmp_path: Path, form: str, left: int):
    path = tmp_path / ("x.safetensors" if form == "safetensors" else "x.pt")
    if form == "safetensors":
        save_file({"fc.weight": torch.randn(30, 30)}, path)
    else:
        state = {"fc.weight": torch.randn(30, 30)}
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[:left])
    assert re.search("truncated|is no checkpoint", refusal(path))


def test_other_files_are_refused(tmp_path: Path):
    assert "there is no such file" in refusal(tmp_path / "x.pt")
    (tmp_path / "x.pt").touch()
    assert "is empty" in refusal(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_text("learning rate: 0.1\n" * 9)
    assert "is no checkpoint; read are what torch.save writes" in refusal(tmp_path / "x.pt")
    assert "not of a run (no config.yaml)" in refusal(tmp_path)
    run_directory(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").unlink()
    assert "keep_checkpoint=none" in refusal(tmp_path / "run")
    assert "there is no such file" in refusal(tmp_path / "run" / "checkpoint.pt")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "resnet34",
            r"does not fit model=resnet34: of its 110 parameters the file lacks 48 \(layer",
        ),
        ("resnet19", "allowed: a torchvision model .* did you mean 'resnet18'"),
        ("{model: mlp, depht: 3}", "unknown name 'depht'.* did you mean 'depth'"),
        ("mlp", "the file lacks 22"),
    ],
)
def test_model_that_does_not_fit_is_refused(tmp_path: Path, model: str, said: str):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "x.pt")
    assert re.search(said, refusal(tmp_path / "x.pt", model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["regnet_y_400mf", "googlenet", "inception_v3", "swin_t", "maskrcnn_resnet50_fpn"]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_kind_of_torchvision_model(tmp_path: Path, name: str):
    options = {"weights_backbone": None} if "rcnn" in name else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    torch.save(network.state_dict(), tmp_path / "x.pt")
    stored, live = read_weights(tmp_path / "x.pt", model=name).matrices, weight_matrices(network)
    assert [(m.name, m.shape, m.counted) for m in stored] == [
        (m.name, m.shape, m.counted) for m in live
    ]
    assert all(torch.equal(s.view(), m.view()) for s, m in zip(stored, live, strict=True))


MEASURED = """
import sys, threading, time
from lowrank.views.spectra.quantities import measure
from lowrank.views.spectra.weights import read_weights

def anonymous():  # KiB that are the process's own, not a mapped file's
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

measure(read_weights(sys.argv[1]))  # what libraries allocate on first use
before = peak = anonymous()
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
assert len(measure(read_weights(sys.argv[2])).rows) == 80
print(peak - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str):
    save = torch.save if form == "pt" else save_file
    few, many = tmp_path / f"few.{form}", tmp_path / f"many.{form}"
    save({"a.weight": torch.randn(256, 256)}, few)
    save({f"{i}.weight": torch.randn(1024, 2048) for i in range(80)}, many)  # 640 MiB
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(few), str(many)],
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    one = 1024 * 2048 * 8 // 1024  # KiB of a matrix in float64
    assert int(done.stdout) < 8 * one, f"{done.stdout} KiB"  # the file has 40 of them
