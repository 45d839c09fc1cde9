"""The recipes of docs/your_own_loop.md with the real packages: Lightning, the Hugging Face Trainer.

Their records are compared with the weights themselves, measured by numpy in float64.
`make test-slow` installs the packages. Run with ``pytest -m slow tests/test_recipes.py``.
"""

from __future__ import annotations

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


def recipe(package):
    """Returns the class that the document defines for a package."""
    pytest.importorskip(package, reason=f"{package} {PACKAGES}")
    (example,) = [
        example
        for example in examples(ROOT / "docs" / "your_own_loop.md")
        if example.kind == "recipes" and package in example.code
    ]
    namespace = {"__name__": package}
    exec(example.code, namespace)
    return namespace["RankCallback"]


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


@pytest.fixture
def lightning_module():
    lightning = pytest.importorskip("lightning", reason=f"lightning {PACKAGES}")

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


def lightning_trainer(directory, callback, epochs, *, logger=False):
    import lightning

    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=[callback],
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*digits()), batch_size=16)


def test_lightning(tmp_path, lightning_module):
    class_ = recipe("lightning")
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(offline=True, save_dir=tmp_path)
    callback = class_(record=tmp_path / "runs", run=logger.experiment)
    trainer = lightning_trainer(tmp_path, callback, epochs=2, logger=logger)
    trainer.fit(lightning_module, loader(), loader())
    run = lowrank.load_run(tmp_path / "runs")
    assert run.epochs.tolist() == [0, 1, 2]
    assert [layer.name for layer in run.layers] == ["model_1", "model_3"]
    check(run, lightning_module)
    for name in ("train_loss", "val/accuracy"):
        assert np.isfinite(run.metrics[name]).tolist() == [False, True, True], name
    assert run.metrics["val/accuracy"][-1] == float(trainer.callback_metrics["val/accuracy"])
    check_wandb(logger.experiment, run, others="trainer/global_step")


def test_lightning_continues_from_a_checkpoint(tmp_path, lightning_module):
    class_ = recipe("lightning")
    first = lightning_trainer(tmp_path, class_(record=tmp_path / "runs"), epochs=1)
    first.fit(lightning_module, loader())
    second = lightning_trainer(tmp_path, class_(record=tmp_path / "runs"), epochs=3)
    second.fit(lightning_module, loader(), ckpt_path=first.checkpoint_callback.best_model_path)
    run = lowrank.load_run(tmp_path / "runs")
    assert run.epochs.tolist() == [0, 1, 2, 3]
    assert run.state == "finished"


def test_lightning_that_fails(tmp_path, lightning_module):
    def fail(*_):
        raise RuntimeError("in the training step")

    lightning_module.training_step = fail
    callback = recipe("lightning")(record=tmp_path / "runs")
    with pytest.raises(RuntimeError, match="in the training step"):
        lightning_trainer(tmp_path, callback, epochs=2).fit(lightning_module, loader())
    assert lowrank.load_run(tmp_path / "runs").state == "failed"


def hugging_face_trainer(model, directory, callback, *, epochs=2, dataset=None, report_to="none"):
    import transformers

    arguments = transformers.TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="epoch",
        logging_strategy="epoch",
        report_to=report_to,
    )
    return transformers.Trainer(model, arguments, train_dataset=dataset, callbacks=[callback])


def test_the_hugging_face_trainer(tmp_path, monkeypatch):
    callback = recipe("transformers")(record=tmp_path / "runs")
    import transformers
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()  # it would go on with the settings that it began with
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = transformers.ViTConfig(
        image_size=8, patch_size=2, num_channels=1, num_attention_heads=2, num_labels=10, **sizes
    )
    model = transformers.ViTForImageClassification(config)
    images, labels = digits()
    dataset = [
        {"pixel_values": image, "labels": label}
        for image, label in zip(images, labels, strict=True)
    ]
    trainer = hugging_face_trainer(
        model, tmp_path / "out", callback, dataset=dataset, report_to="wandb"
    )
    trainer.train()
    run = lowrank.load_run(tmp_path / "runs")
    assert run.epochs.tolist() == [0, 1, 2]
    linear = sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in model.modules())
    assert len(run.layers) == linear > 10
    check(run, model)
    check_wandb(wandb.run, run, others="train/loss")

    callback = type(callback)(record=tmp_path / "runs")
    more = hugging_face_trainer(model, tmp_path / "out", callback, dataset=dataset, epochs=3)
    more.train(resume_from_checkpoint=True)
    assert lowrank.load_run(tmp_path / "runs").epochs.tolist() == [0, 1, 2, 3]


def test_gpt2s_own_linear_layer_is_measured():
    transformers = pytest.importorskip("transformers", reason=f"transformers {PACKAGES}")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=6)
    )
    found = {m.path: m.shape for m in lowrank.weight_matrices(model)}
    assert found["transformer.h.0.attn.c_attn.weight"] == (24, 8)  # (out, in), as of a Linear
    assert sorted(found.values()) == [(8, 8), (8, 32), (20, 8), (24, 8), (32, 8)]
