"""A new model, data set or optimiser is one entry of a table, and one file where it needs code.

Each is added to a copy of the package, where the real `train.py` trains with it and refuses what
the entry says. The truth is written out here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lowrank import load_run

ROOT = Path(__file__).resolve().parents[2]

ADDED = {
    "config/families.py": """
FAMILIES["linear"] = Family("linear", ("width",), smallest=4, patch="width", one_thread=16)
""",
    "models/linear.py": """
from torch import nn

def build(config, image_shape, num_classes):
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, config.width),
        nn.Linear(config.width, num_classes),
    )
""",
    "config/datasets.py": """
DATASETS["stripes"] = Source(
    "stripes", (0.5,), (0.5,), train_size=200, native=6, padded=True, convolved_size=16,
    classes=("across", "down"), in_data_dir=False,
)
""",
    "data/stripes.py": """
import torch
from lowrank.data.sets import Dataset, Split

def load(request):
    across = (torch.arange(6) % 2 * 255).to(torch.uint8).expand(6, 6)
    images = torch.stack([across, across.T])[torch.arange(200) % 2][:, None]
    def split(n):
        return Split(request.fit(images[:n]), torch.arange(n) % 2)
    source = request.source
    train = split(request.train_size or source.train_size)
    return Dataset(request.name, train, split(50), source.classes, source.mean, source.std, "here")
""",
    "config/optimizers.py": """
OPTIMIZERS["nadam"] = Optimizer("NAdam", fused=False)
OPTIMIZERS["rmsprop"] = Optimizer("RMSprop", ("momentum",), fused=False)
""",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the program with the entries and files of ADDED."""
    top = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "lowrank", top / "lowrank")
    shutil.copy(ROOT / "train.py", top)
    for name, text in ADDED.items():
        with (top / "lowrank" / name).open("a", encoding="utf-8") as file:
            file.write(text)
    return top


def train(house, folder, *words):
    """Returns exit code and errors of a tiny training, and its run if there is one."""
    done = subprocess.run(
        [sys.executable, str(house / "train.py"), "--epochs=1", "--batch_size=20", *words,
         "--tracking=disabled", "--device=cpu", "--run_id=a"],
        cwd=folder,
        env={"PYTHONPATH": str(house), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    run = load_run(folder / "runs/a") if done.returncode == 0 else None
    return done.returncode, done.stderr, run


def test_a_model_is_a_line_and_a_file(house, tmp_path):
    code, errors, run = train(house, tmp_path, "--model=linear", "--width=8", "--train_size=100")
    assert code == 0, errors
    assert [layer.shape for layer in run.layers] == [(8, 64), (10, 8)]
    assert [layer.counted for layer in run.layers] == [True, False]
    assert run.config["threads"] == 1, "as narrow as the line says"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--width=8", "--image_size=12"],
            "image_size=12: width=8 does not divide 12; width=6 or image_size=16 works",
        ),
        (
            ["--width=2", "--dataset=cifar10", "--image_size=2"],
            "image_size=2: too small for model=linear; image_size=4 or more works",
        ),
        (["--width=8", "--depth=7"], "depth=7 has no effect with model=linear, only with"),
        (["--width=8", "--model=linaer"], "did you mean 'linear'?"),
    ],
    ids=["patch", "smallest", "unused field", "nearest name"],
)
def test_what_a_models_line_says_is_refused(words, line, house, tmp_path):
    named = [] if any("--model" in word for word in words) else ["--model=linear"]
    code, errors, _ = train(house, tmp_path, *named, *words)
    assert code == 2
    assert line in errors


@pytest.mark.parametrize(
    ("model", "size"), [("mlp", 6), pytest.param("convnet", 16, marks=pytest.mark.slow)]
)
def test_a_data_set_is_an_entry_and_a_file(model, size, house, tmp_path):
    words = ["--dataset=stripes", f"--model={model}", "--width=8", "--depth=1", "--train_size=60"]
    code, errors, run = train(house, tmp_path, *words)
    assert code == 0, errors
    inputs = {"mlp": size * size, "convnet": 8 * (size // 4) ** 2}[model]
    measured = run.layers[0] if model == "mlp" else run.layers[-1]
    assert measured.shape[1] == inputs
    assert run.layers[-1].shape[0] == 2, "two classes"


def test_what_a_data_sets_entry_says_is_refused(house, tmp_path):
    words = ["--dataset=stripes", "--train_size=201", "--image_size=5"]
    code, errors, _ = train(house, tmp_path, *words)
    assert code == 2
    assert "train_size=201 is more than the 200 training examples of stripes" in errors
    assert "image_size=5 is less than the 6 of stripes, whose images are padded" in errors


@pytest.mark.parametrize(
    "words",
    [["nadam"], pytest.param(["rmsprop", "--momentum=0.5"], marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_an_optimiser_is_an_entry(words, house, tmp_path):
    small = ["--width=8", "--depth=1", "--train_size=100", "--lr=0.001"]
    code, errors, run = train(house, tmp_path, f"--optimizer={words[0]}", *words[1:], *small)
    assert code == 0, errors
    assert run.state == "finished"


def test_an_optimisers_conflicts_are_its_own(house, tmp_path):
    # That a step multiplies weights by 1 - lr x weight_decay is said of SGD and AdamW only.
    words = ["--optimizer=nadam", "--lr=2", "--weight_decay=1", "--momentum=0.5"]
    code, errors, _ = train(house, tmp_path, *words)
    assert code == 2
    assert errors.splitlines() == [
        "train.py: momentum=0.5 has no effect with optimizer=nadam, only with "
        "optimizer=sgd or rmsprop; leave it out"
    ]
