"""Ranks of what the Trainer of Hugging Face's transformers trains."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lowrank.watch import LoggingWatcher, watch

_NEARLY = 1e-6  # of an epoch, which the Trainer counts in fractions


class RankCallback(TrainerCallback):
    """Watches the model before training and after every epoch, with what the Trainer logs then.

    An epoch that ``max_steps`` cuts short counts as one. Rows go to the W&B run that there is when
    training begins, as with ``report_to="wandb"``. What a continued training needs is kept in the
    Trainer's checkpoints, as ``ranks.pt``.

    Args:
        **options: Those of `lowrank.watch`, but ``resume``.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._watcher: LoggingWatcher | None = None
        self._trained: int | None = None  # an epoch that is not logged yet
        self._metrics: dict[str, float] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Measures the model as it is before any training, or goes on."""
        del control, kwargs
        assert model is not None
        goes_on = state.global_step > 0
        options = {"run": getattr(sys.modules.get("wandb"), "run", None), **self._options}
        self._trained, self._metrics = None, {}
        self._watcher = watch(model, resume=goes_on, **options)
        if goes_on and (kept := _kept(args, state)).exists():
            self._watcher.load_state_dict(torch.load(kept, weights_only=True))
        if not goes_on:
            self._watcher.log(0)

    def on_epoch_begin(self, *_: Any, **kwargs: Any) -> None:
        """Logs the epoch before, if nothing was to be logged or evaluated after it."""
        del kwargs
        self._log()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures at once, or with the Trainer's metrics, which follow."""
        del args, kwargs
        self._trained = math.ceil((state.epoch or 0) - _NEARLY)
        if not (control.should_log or control.should_evaluate):
            self._log()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keeps the metrics for the row of the epoch."""
        del args, state, kwargs
        if self._trained is not None:
            for name, value in (logs or {}).items():
                if isinstance(value, int | float) and name != "epoch":
                    self._metrics[name] = value
            if not control.should_evaluate:
                self._log()

    def on_evaluate(self, *_: Any, **kwargs: Any) -> None:
        """Logs the epoch, if it has ended."""
        del kwargs
        self._log()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keeps in the checkpoint what going on from it needs."""
        del control, kwargs
        self._log()
        kept = _kept(args, state)
        if self._watcher is not None and state.is_world_process_zero and kept.parent.is_dir():
            torch.save(self._watcher.state_dict(), kept)

    def on_train_end(self, *_: Any, **kwargs: Any) -> None:
        """Ends the record."""
        del kwargs
        self._log()
        if self._watcher is not None:
            self._watcher.close()

    def _log(self) -> None:
        if self._watcher is not None and self._trained is not None:
            self._watcher.log(self._trained, **self._metrics)
        self._trained, self._metrics = None, {}


def _kept(args: TrainingArguments, state: TrainerState) -> Path:
    return (
        Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / "ranks.pt"
    )
