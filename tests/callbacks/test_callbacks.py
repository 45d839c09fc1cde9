"""The callbacks with the real packages: Lightning, the Hugging Face Trainer.

Their records are compared with the weights themselves, measured by numpy in float64, and with what
the trainers log. `make test-slow` installs the packages. Run with
``pytest -m slow tests/callbacks``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank.data import load_dataset
from tests.segments import records
from tests.test_docs import ROOT, examples

pytestmark = pytest.mark.slow
PACKAGES = "is not installed; `make test-slow` installs it"


def callback(package, **options):
    """Returns the callback for a package."""
    pytest.importorskip(package, reason=f"{package} {PACKAGES}")
    return importlib.import_module(f"lowrank.callbacks.{package}").RankCallback(**options)


def digits(count=160):
    data = load_dataset("digits", train_size=count).train
    return data.images / 255, data.labels


def check(run, model, prefix=""):
    """Checks the last epoch of a record against the weights."""
    assert run.state == "finished"
    for layer in run.layers:
        weight = model.get_parameter(layer.path.removeprefix(prefix)).detach()
        s = np.linalg.svd(weight.flatten(1).double().numpy(), compute_uv=False)
        np.testing.assert_allclose(run.spectra[layer.name][-1], s, rtol=1e-6, atol=1e-9)
        assert run.metrics[f"rank/{layer.name}"][-1] == (s > 1e-3 * np.linalg.norm(s)).sum()
    distance = run.metrics[f"distance/{run.layers[0].name}"]
    assert np.isnan(distance[0])
    assert (distance[1:] > 0).all()


def check_wandb(wandb_run, run, others):
    """Ends a W&B run; checks that it has each epoch of a record once, and still other rows."""
    segment = Path(wandb_run.settings.sync_dir)
    wandb_run.finish()
    rows = [record["item"] for record in records(segment, "history")]
    ours = [row for row in rows if "rank_mean" in row]
    assert [row["epoch"] for row in ours] == run.epochs.tolist()
    assert [row["rank_mean"] for row in ours] == run.metrics["rank_mean"].tolist()
    assert any(others in row for row in rows)


def lightning_module(package="lightning.pytorch"):
    lightning = pytest.importorskip(package, reason=f"lightning {PACKAGES}")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(
                nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
            )

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, _):
            accuracy = (self.model(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("val/accuracy", accuracy)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    return Module()


def lightning_trainer(directory, ranks, epochs, *, logger=False, package="lightning.pytorch"):
    return importlib.import_module(package).Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=[ranks],
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*digits()), batch_size=16)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(tmp_path, monkeypatch, package):
    if package == "pytorch_lightning":  # as where it is all that there is
        monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "lowrank.callbacks.lightning", raising=False)
    module = lightning_module(package)
    ranks = callback("lightning", record=tmp_path / "runs")
    logger = importlib.import_module(f"{package}.loggers").WandbLogger(
        offline=True, save_dir=tmp_path
    )
    trainer = lightning_trainer(tmp_path, ranks, epochs=2, logger=logger, package=package)
    trainer.fit(module, loader(), loader())
    run = lowrank.load_run(tmp_path / "runs")
    assert run.epochs.tolist() == [0, 1, 2]
    assert [layer.name for layer in run.layers] == ["model_1", "model_3"]
    check(run, module)
    for name in ("train_loss", "val/accuracy"):
        assert np.isfinite(run.metrics[name]).tolist() == [False, True, True], name
    assert run.metrics["val/accuracy"][-1] == float(trainer.callback_metrics["val/accuracy"])
    check_wandb(logger.experiment, run, others="trainer/global_step")


def test_lightning_goes_on_from_any_checkpoint(tmp_path):
    module = lightning_module()
    ranks = callback("lightning", record=tmp_path / "runs")
    first = lightning_trainer(tmp_path, ranks, epochs=1)
    first.fit(module, loader())
    checkpoint = first.checkpoint_callback.best_model_path
    for name in ("on", "back"):  # the second time to before what is recorded
        ranks = callback("lightning", record=tmp_path / "runs")
        trainer = lightning_trainer(tmp_path / name, ranks, epochs=3)
        trainer.fit(module, loader(), ckpt_path=checkpoint)
        run = lowrank.load_run(tmp_path / "runs")
        assert run.state == "finished"
        assert run.epochs.tolist() == [0, 1, 2, 3]
        check(run, module)


def test_lightning_that_fails(tmp_path):
    module = lightning_module()

    def fail(*_):
        raise RuntimeError("in the training step")

    module.training_step = fail
    ranks = callback("lightning", record=tmp_path / "runs")
    with pytest.raises(RuntimeError, match="in the training step"):
        lightning_trainer(tmp_path, ranks, epochs=2).fit(module, loader())
    assert lowrank.load_run(tmp_path / "runs").state == "failed"


@pytest.fixture
def images():
    return [
        {"pixel_values": image, "labels": label} for image, label in zip(*digits(), strict=True)
    ]


def vision_transformer():
    transformers = pytest.importorskip("transformers", reason=f"transformers {PACKAGES}")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = transformers.ViTConfig(
        image_size=8, patch_size=2, num_channels=1, num_attention_heads=2, num_labels=10, **sizes
    )
    return transformers.ViTForImageClassification(config)


def hugging_face_trainer(model, directory, images, ranks, **options):
    import transformers

    arguments = transformers.TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=16,
        use_cpu=True,
        disable_tqdm=True,
        **{"save_strategy": "epoch", "logging_strategy": "epoch", "report_to": "none", **options},
    )
    data = {"train_dataset": images, "eval_dataset": images[:32]}
    return transformers.Trainer(model, arguments, callbacks=[ranks], **data)


def test_the_hugging_face_trainer(tmp_path, monkeypatch, images):
    model = vision_transformer()
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()  # it would go on with the settings that it began with
    ranks = callback("transformers", record=tmp_path / "runs")
    options = {"num_train_epochs": 2, "eval_strategy": "epoch", "report_to": "wandb"}
    trainer = hugging_face_trainer(model, tmp_path / "out", images, ranks, **options)
    trainer.train()
    run = lowrank.load_run(tmp_path / "runs")
    assert run.epochs.tolist() == [0, 1, 2]
    linear = sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in model.modules())
    assert len(run.layers) == linear > 10
    check(run, model)
    for name in ("loss", "eval_loss"):
        told = [row[name] for row in trainer.state.log_history if name in row]
        assert run.metrics[name][1:].tolist() == told, name
    check_wandb(wandb.run, run, others="train/loss")


def test_the_hugging_face_trainer_goes_on_from_any_checkpoint(tmp_path, images):
    model = vision_transformer()
    for epochs, reached in ((2, None), (3, True), (3, "checkpoint-10")):
        ranks = callback("transformers", record=tmp_path / "runs")
        trainer = hugging_face_trainer(
            model, tmp_path / "out", images, ranks, num_train_epochs=epochs
        )
        again = tmp_path / "out" / reached if isinstance(reached, str) else reached
        trainer.train(resume_from_checkpoint=again)
        run = lowrank.load_run(tmp_path / "runs")
        assert run.epochs.tolist() == list(range(epochs + 1))
        check(run, model)


def test_epochs_of_a_trainer_that_stops_within_one_and_logs_by_steps(tmp_path, images):
    model = vision_transformer()
    ranks = callback("transformers", record=tmp_path / "runs")
    options = {"max_steps": 13, "logging_strategy": "steps", "logging_steps": 4}
    hugging_face_trainer(
        model, tmp_path / "out", images, ranks, save_strategy="no", **options
    ).train()
    run = lowrank.load_run(tmp_path / "runs")
    assert run.epochs.tolist() == [0, 1, 2]  # of ten steps
    check(run, model)


def test_gpt2s_own_linear_layer_is_measured():
    transformers = pytest.importorskip("transformers", reason=f"transformers {PACKAGES}")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=6)
    )
    found = {m.path: m.shape for m in lowrank.weight_matrices(model)}
    assert found["transformer.h.0.attn.c_attn.weight"] == (24, 8)  # (out, in), as of a Linear
    assert sorted(found.values()) == [(8, 8), (8, 32), (20, 8), (24, 8), (32, 8)]


def test_the_documents_lines_are_these(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "your_own_loop.md"
    lines = [example.code for example in examples(page) if example.kind == "recipes"]
    for package, code in zip(("lightning", "transformers"), lines, strict=True):
        callback(package)  # skips where the package is not installed
        exec(code, found := {})
        assert found["RankCallback"].__module__ == f"lowrank.callbacks.{package}"
