"""Ranks of what Lightning trains, of ``lightning.pytorch`` and ``pytorch_lightning`` alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowrank.watch import LoggingWatcher, watch

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:  # of the two packages of the same classes there may be the other
    from pytorch_lightning import Callback, LightningModule, Trainer


class RankCallback(Callback):
    """Watches the module before training and after every epoch, with what it logs per epoch.

    Epochs count from 1, where Lightning's own rows begin with 0: epoch 0 is before training. Rows
    go to the W&B run of the trainer's ``WandbLogger`` where there is one. What a continued training
    needs is kept in Lightning's checkpoints.

    Args:
        **options: Those of `lowrank.watch`, but ``resume``.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._watcher: LoggingWatcher | None = None
        self._restored: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the module as it is before any training, or goes on."""
        goes_on = trainer.global_step > 0
        runs = [each.experiment for each in trainer.loggers if type(each).__name__ == "WandbLogger"]
        options = {"run": next(iter(runs), None), **self._options}
        self._watcher = watch(pl_module, resume=goes_on, **options)
        if self._restored:
            self._watcher.load_state_dict(self._restored)
        if not goes_on:
            self._watcher.log(0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, records and logs."""
        del pl_module
        if self._watcher is not None:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self._watcher.log(trainer.current_epoch + 1, **metrics)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the record."""
        del trainer, pl_module
        self._close("finished")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Ends the record of a training that failed, or that Ctrl-C has stopped."""
        del trainer, pl_module
        self._close("stopped" if isinstance(exception, KeyboardInterrupt) else "failed")

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {} if self._watcher is None else self._watcher.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes what a checkpoint has kept."""
        self._restored = dict(state_dict)

    def _close(self, state: str) -> None:
        if self._watcher is not None:
            self._watcher.close(state)
        self._restored = {}
