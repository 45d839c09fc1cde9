"""Which weights of a file or of several are measured, against the weights that were put there.

Each file holds two different networks or one in parts; what is read must be one of them, bit for
bit, said by name. Files that training scripts write beside numbers are read by stand-ins: nothing
in them may run, which the hostile files of tests/hostile/test_checkpoints.py try.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import types
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lowrank import cli
from lowrank.common.errors import InputError
from lowrank.views.spectra.inert import STAND_INS
from lowrank.views.spectra.weights import Weights, read_weights


def network(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).state_dict()


A, B = network(0), network(1)


def holds(weights: Weights, state: dict[str, torch.Tensor]) -> bool:
    wanted = [tensor for tensor in state.values() if tensor.ndim == 2]
    views = [matrix.view() for matrix in weights.matrices]
    return len(views) == len(wanted) and all(map(torch.equal, views, wanted))


@pytest.mark.parametrize(
    ("content", "origin"),
    [
        ({"model": A, "ema": {"state_dict": B}}, "read: model; left: ema.state_dict"),
        ({"net": A, "ema": {"module": B}}, "read: net; left: ema.module"),
        ({"policy": A, "value": {"net": B}}, "read: policy; left: value.net"),
        ({"weights": A, "callbacks": {"ema": {"state_dict": B}}}, "left: callbacks.ema.state_dict"),
        ({"model": A, "ema": B}, "read: model; left: ema"),
        ({"model": A, "optimizer": {"state_dict": {"0": {"exp_avg": A["0.weight"]}}}}, "read: mod"),
        ({**A, "ema": {"model": B}}, "read: .; left: ema.model (--key reads another)"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_the_copy_that_is_measured_is_the_shallowest_and_is_said(tmp_path, capsys, content, origin):
    torch.save(content, tmp_path / "x.pt")
    weights = read_weights(tmp_path / "x.pt")
    assert holds(weights, A)
    assert origin in weights.origin
    for words in ([], ["--json"], ["--csv"]):
        assert cli.main(["spectra", str(tmp_path / "x.pt"), *words]) == 0
        captured = capsys.readouterr()
        assert origin in captured.out + captured.err


@pytest.mark.parametrize("content", [{"a": A, "b": B}, {"state_dict": A, "model": B}])
def test_copies_of_which_none_is_surely_meant_are_refused_with_what_there_is(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError) as caught:
        read_weights(tmp_path / "x.pt")
    for name in content:
        assert name in caught.value.lines[0]
    assert "--key" in caught.value.lines[0]


def test_key_chooses_the_copy_and_a_wrong_one_is_told_the_nearest(tmp_path, capsys):
    torch.save({"model": A, "ema": {"state_dict": B}}, tmp_path / "x.pt")
    file = str(tmp_path / "x.pt")
    weights = read_weights(file, key="ema.state_dict")
    assert holds(weights, B)
    assert weights.origin.startswith("read: ema.state_dict; left: model")
    assert cli.main(["spectra", file, "--key=ema.state_dict"]) == 0
    assert cli.main(["spectra", file, "--key=ema.statedict"]) == 2
    assert "did you mean 'ema.state_dict'?" in capsys.readouterr().err
    torch.save({**A, "ema": B}, tmp_path / "y.pt")
    assert holds(read_weights(tmp_path / "y.pt", key="."), A)


PARTS = ("model-00001-of-00002", "model-00002-of-00002")


@pytest.fixture(params=["safetensors", "bin"])
def sharded(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, list[str]]:
    """A model in two files with an index, and the files."""
    files = [f"{part}.{request.param}" for part in PARTS]
    names = {name: files[int(name.startswith("1."))] for name in A}
    for file in files:
        part = {name: A[name] for name in A if names[name] == file}
        (save_file if request.param == "safetensors" else torch.save)(part, tmp_path / file)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (tmp_path / f"model.{request.param}.index.json").write_text(json.dumps(index))
    return tmp_path, files


def test_shards_are_one_model_by_index_directory_and_name(sharded, capsys):
    directory, files = sharded
    index = next(directory.glob("*.index.json"))
    assert holds(read_weights(directory), A)
    assert holds(read_weights(index), A)
    assert cli.main(["spectra", *(str(directory / file) for file in files)]) == 0
    out = capsys.readouterr().out
    assert "2 weight matrices" in out and "of 2 files" in out
    index.unlink()
    assert holds(read_weights(directory), A)
    (directory / files[1]).unlink()
    with pytest.raises(InputError, match="1 of 2 shards are missing: model-00002-of-00002"):
        read_weights(directory)
    assert "this is one of 2 shards of a model" in read_weights(directory / files[0]).origin


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../../etc/passwd"}},
        {"weight_map": {"a": 1}},
        {"weight_map": ["a"]},
        {"weight_map": {}},
        [],
        {"weight_map": {"a": "lost.safetensors"}},
    ],
)
def test_a_strange_index_is_a_line_and_no_file_elsewhere_is_opened(tmp_path, index):
    (tmp_path / "m.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"is no index of a model|shards are missing"):
        read_weights(tmp_path / "m.index.json")


def test_two_models_in_one_directory_are_refused_by_name(tmp_path):
    for name in ("a", "b"):
        save_file(A, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"holds 2 models: name one, such as a\.safetensors, b"):
        read_weights(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    assert holds(read_weights(tmp_path), A)


@pytest.mark.parametrize(
    ("path", "is_table"),
    [
        ("transformer.wte.weight", True),
        ("model.embed_tokens.weight", True),
        ("bert.embeddings.word_embeddings.weight", True),
        ("tok_embeddings.weight", True),
        ("token_embedding_table.weight", True),
        ("gpt_neox.embed_in.weight", True),
        ("embedding.weight", True),
        ("gpt_neox.embed_out.weight", False),  # a classifier
        ("patch_embed.proj.weight", False),
        ("time_embed.0.weight", False),
        ("embedding_projection.weight", False),
        ("lm_head.weight", False),
        ("member.weight", False),
    ],
)
def test_embeddings_of_a_plain_state_dict_are_skipped_and_said(tmp_path, path, is_table):
    torch.save({path: torch.randn(6, 5), "fc.weight": torch.randn(4, 5)}, tmp_path / "x.pt")
    weights = read_weights(tmp_path / "x.pt")
    said = [(s.path, s.reason) for s in weights.skipped]
    assert said == ([(path, "an embedding, by its name")] if is_table else [])
    torch.save({"patch_embedding.weight": torch.randn(6, 3, 2, 2)}, tmp_path / "y.pt")
    assert len(read_weights(tmp_path / "y.pt").matrices) == 1  # a convolution


HARMLESS: dict[str, Any] = {
    "args": argparse.Namespace(lr=np.float64(0.1), out=pathlib.Path("runs"), nested=[1, {2}]),
    "best": np.float32(93.5),
    "history": defaultdict(list, loss=[np.float64(1)]),
    "rng": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
    "generator": np.random.default_rng(3),
    "state": np.random.default_rng(3).bit_generator.state,
    "array": np.ones((3, 3)),
    "config": types.SimpleNamespace(a=1),
    "sizes": frozenset([1, 2]),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_training_scripts_save_beside_the_weights_is_read_past(tmp_path, zipped):
    path = tmp_path / "x.pt"
    torch.save({"model": A, **HARMLESS}, path, _use_new_zipfile_serialization=zipped)
    assert holds(read_weights(path), A)


class Poisoned:
    """A call hidden in what a stand-in takes, with the name of a harmless type before it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_a_call_inside_harmless_types_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "was_run"
    for place in (argparse.Namespace(a=Poisoned(marker)), defaultdict(list, a=Poisoned(marker))):
        torch.save({"model": A, "args": place}, tmp_path / "x.pt")
        with pytest.raises(InputError, match="could run code"):
            read_weights(tmp_path / "x.pt")
        assert not marker.exists()


def test_stand_ins_keep_and_run_nothing():
    class Watched:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

    for entry in STAND_INS:
        assert isinstance(entry, tuple)
        made = entry[0](Watched(), Watched())
        assert made == {} or not vars(made)
        if hasattr(made, "__setstate__"):
            made.__setstate__({"a": Watched()})
            assert not vars(made)
    # They are there only while a file is read.
    assert not set(STAND_INS) & set(torch.serialization.get_safe_globals())


def test_arrays_of_numpy_are_read_without_pickle(tmp_path):
    state = {name: tensor.numpy() for name, tensor in A.items()}
    odd = {"0.weight": np.asfortranarray(state["0.weight"]), "1.weight": state["1.weight"]}
    odd["1.weight"] = odd["1.weight"].astype(">f4")
    np.savez(tmp_path / "x.npz", **odd, names=np.array([{}], dtype=object))
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(action="error"):
            assert holds(read_weights(tmp_path / "x.npz"), A)
    finally:
        torch.set_warn_always(False)
    content = (tmp_path / "x.npz").read_bytes()
    lied = content.replace(b"(4, 5)", b"(9, 9)")
    assert lied != content
    (tmp_path / "y.npz").write_bytes(lied)
    with pytest.raises(InputError, match="truncated or damaged"):
        read_weights(tmp_path / "y.npz")


def test_distributed_tensors_are_called_what_they_are(tmp_path):
    from torch.distributed.tensor import DTensor  # so that the pickle names it

    rebuilt = torch._utils._rebuild_wrapper_subclass

    class Named:
        def __reduce__(self) -> Any:
            return rebuilt, (DTensor, torch.float32)

    torch.save({"fc.weight": Named()}, tmp_path / "x.pt")
    content = (tmp_path / "x.pt").read_bytes()
    assert b"DTensor" in content
    code = (
        "import sys; from lowrank.views.spectra.weights import read_weights\n"
        "try: read_weights(sys.argv[1])\n"
        "except Exception as error: print(error)"
    )
    import subprocess
    import sys

    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.pt")],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "holds DTensors, of which each process has a part" in told
