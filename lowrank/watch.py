"""Spectra and ranks of a module over a training, in anyone's loop."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lowrank.common.errors import InputError
from lowrank.measure.metrics import over_replicas
from lowrank.measure.watcher import Watcher
from lowrank.runs.find import load_run
from lowrank.runs.format import RECORD_NAME
from lowrank.runs.lock import lock
from lowrank.runs.writer import Record
from lowrank.tracking.rows import RowLogger

if TYPE_CHECKING:
    import wandb


class LoggingWatcher(Watcher):
    """A watcher that also records and logs; `watch` makes it.

    Args:
        model: Any module.
        run: A W&B run, or None.
        record: Where the run record is written, or None: a directory, or the file itself.
        **options: Those of `Watcher`.

    Raises:
        InputError: If the record is of another network.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        run: wandb.Run | None = None,
        record: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self._run = run if _is_main_process() else None
        self._rows: RowLogger | None = None
        self._record: Record | None = None
        self._rates: list[float] = []
        self._closed = False
        if self._run is not None:
            self._rows = RowLogger(self._run, rank_norm=self.rank_norm)
        if record is not None and _is_main_process():
            self._open(Path(record))

    def log(self, epoch: int, *, lr: float | None = None, **more: float) -> dict[str, float]:
        """Measures the weights, and records and logs them with whatever else is given.

        Args:
            epoch: Number of epochs trained; 0 is initialisation, before any training.
            lr: The learning rate of this epoch, logged as ``lr_now``; the rank bounds need it.
            **more: Further numbers by name, such as ``test_accuracy``.

        Returns:
            The row by W&B's names, NaN where there is no value; empty on ranks other than 0.

        Raises:
            ValueError: The epoch is no whole number or negative, a name is that of a quantity, or
                the watcher was closed.
        """
        if self._closed:
            raise ValueError(f"epoch {epoch}: the watcher was closed, watch the model anew")
        if epoch != int(epoch) or epoch < 0:
            raise ValueError(f"epoch must be a whole number, 0 or more, got {epoch}")
        if not _is_main_process():
            return {}
        epoch = int(epoch)
        given = dict(more) if lr is None else {"lr_now": lr, **more}
        if lr is not None:
            self._note_rate(epoch, lr)
        measurement = self.measure(epoch, self._rates[:epoch])
        taken = sorted(given.keys() & measurement.metrics.keys())
        if taken:
            raise ValueError(f"{', '.join(taken)}: measured here, log it under another name")
        row = over_replicas({"epoch": float(epoch), **given, **measurement.metrics})
        if self._record is not None:
            self._record.append(epoch, row, measurement.spectra)
        if self._rows is not None:
            # Without a step: the loop's own is W&B's to count.
            self._rows.log(row, measurement.spectra)
        self.advance()
        return row

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep: tensors and numbers, the rates among them."""
        return {**super().state_dict(), "rates": list(self._rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that ``state_dict`` gave.

        Args:
            state: Of a watcher of the same module.
        """
        super().load_state_dict(state)
        self._rates = list(state["rates"])

    def close(self, state: str = "finished") -> None:
        """Ends the record; nothing can be logged after that. The end of the program does the same.

        Args:
            state: How the training ended, as the record keeps it.
        """
        self._closed = True
        if self._record is not None:
            self._record.set_state(state)
            self._record.close()
            self._lock.release()
            self._record = None
            atexit.unregister(self._close_at_exit)

    def _open(self, path: Path) -> None:
        from lowrank.runs.environment import describe_environment

        file = path if path.suffix == ".sqlite" else path / RECORD_NAME
        self._lock = lock(file.parent)
        config = {} if self._run is None else dict(self._run.config)
        device = self._matrices[0].view().device if self._matrices else "cpu"
        environment = describe_environment(
            device=device, threads=torch.get_num_threads(), argv=sys.argv
        )
        if file.exists():
            self._record = Record.open(file)
            if list(self._record.layers) != self.layers:
                self._record.close()
                raise InputError(
                    f"{file} is of another network, or was begun with other exclude, include or "
                    "example_input; choose another place"
                )
            self._take_up(file)
            self._record.begin_session(config, environment)
        else:
            self._record = Record.create(
                file,
                run_id=file.parent.resolve().name if self._run is None else self._run.id,
                config=config,
                environment=environment,
                layers=self.layers,
            )
        atexit.register(self._close_at_exit)

    def _take_up(self, file: Path) -> None:
        """Restores what collapse and bounds refer to; a distance needs ``load_state_dict``."""
        run = load_run(file)
        epochs = run.epochs.tolist()
        for layer in self.layers if epochs else ():
            norms = run.metrics[f"{self.rank_norm}_norm/{layer.name}"].tolist()
            for epoch, norm in zip(epochs, norms, strict=True):
                self._norms.setdefault(epoch, {})[layer.name] = norm
            self._first_norms[layer.name] = float(run.metrics[f"frobenius_norm/{layer.name}"][0])
        for epoch, rate in zip(epochs, run.metrics.get("lr_now", ()), strict=False):
            if np.isfinite(rate):
                self._note_rate(epoch, float(rate))

    def _note_rate(self, epoch: int, rate: float) -> None:
        # Epochs that were not logged are taken to have had the rate of the next that was; those
        # after this one, of a training that went back, are forgotten.
        del self._rates[max(epoch - 1, 0) :]
        self._rates += [rate] * (epoch - len(self._rates))

    def _close_at_exit(self) -> None:
        # The interpreter leaves here the exception that ended the program.
        self.close("failed" if getattr(sys, "last_value", None) is not None else "finished")


def watch(
    model: nn.Module,
    *,
    run: wandb.Run | None = None,
    record: str | Path | None = None,
    **options: Any,
) -> LoggingWatcher:
    """Watches the rank of a module's weight matrices from any training loop.

    Args:
        model: Any module; wrapped by ``torch.compile`` or ``DistributedDataParallel`` or not.
        run: A W&B run that gets a row per call of ``log``, under the names that train.py uses.
        record: Where to write a run record that `lowrank.load_run` reads: a directory or a file.
            A record that exists is continued; an epoch logged again is replaced.
        **options: Those of `Watcher`: ``exclude``, ``include``, ``example_input``, ``epsilons``,
            ``rank_norm``, ``theory``.

    Returns:
        The watcher; call its ``log(epoch, …)`` before training and after every epoch.

    Raises:
        InputError: A name in ``exclude`` or ``include`` matches nothing, the module has no values
            yet, or the record is of another network.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> row = watch(model).log(0, test_accuracy=0.5)
        >>> row["rank_mean"], row["rank/2"], row["test_accuracy"]
        (3.0, 2.0, 0.5)
    """
    return LoggingWatcher(model, run=run, record=record, **options)


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )


class _Module(ModuleType):
    """``lowrank.watch`` is this module once it is imported, and stays callable as its function."""

    __call__ = staticmethod(watch)


sys.modules[__name__].__class__ = _Module
