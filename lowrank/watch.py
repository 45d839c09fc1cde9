"""Spectra and ranks of a module over a training, in anyone's loop."""

from __future__ import annotations

import atexit
import math
import sys
import threading
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lowrank.common.errors import InputError, refuse
from lowrank.common.files import expanded
from lowrank.measure.watcher import Watcher
from lowrank.runs.find import load_run
from lowrank.runs.format import RECORD_NAME
from lowrank.runs.lock import lock
from lowrank.runs.writer import Record
from lowrank.tracking.rows import RowLogger

if TYPE_CHECKING:
    import wandb


_OF_TRAINING = ("update", "gradient")


class Row(dict[str, float]):
    """The metrics of one epoch by W&B's names, with the spectra that they were computed from.

    Args:
        metrics: NaN where there is no value.
        spectra: As the attribute.

    Attributes:
        spectra: Singular values (min(rows, columns),) of each layer, descending, float64.
    """

    def __init__(
        self,
        metrics: Mapping[str, float] | None = None,
        spectra: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        super().__init__(metrics or {})
        self.spectra = dict(spectra or {})


class LoggingWatcher(Watcher):
    """A watcher that also records and logs; `watch` makes it.

    Args:
        model: Any module.
        run: A W&B run, or None.
        record: Where the run record is written, or None: a directory, or the file itself.
        resume: Whether a record that exists is continued; else it is refused.
        prefix: What stands before each name but ``epoch`` in W&B.
        **options: Those of `Watcher`.

    Raises:
        InputError: If the record exists and is not to be continued or cannot be, or another watcher
            logs to the run under the same names.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        run: wandb.Run | None = None,
        record: str | Path | None = None,
        resume: bool = False,
        prefix: str = "",
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        unknown = [layer.kind for layer in self.derived.layers if layer.kind in _OF_TRAINING]
        refuse(
            f"spectra_of: {kind!r} takes what only train.py knows; allowed: change"
            for kind in dict.fromkeys(unknown)
        )
        self._told = {
            "epsilons": list(self.epsilons),
            "rank_norm": self.rank_norm,
            "directions": self.directions,
        }
        self._theory_told = _plain_values(options.get("theory") or {})
        self._run = run if _is_main_process() else None
        self._prefix = prefix
        self._rows: RowLogger | None = None
        self._record: Record | None = None
        self._rates: list[float] = []
        self._epoch: int | None = None
        self._follows: int | None = None  # the epoch that the next one logged must be after
        self._logging = threading.Lock()
        self._closed = False
        if self._run is not None:
            self._take(self._run, prefix)
        if record is not None and _is_main_process():
            try:
                self._open(expanded(record), resume)
            except BaseException:
                self._closed = True
                raise

    def log(self, epoch: int, *, lr: float | None = None, **more: float) -> Row:
        """Measures the weights, and records and logs them with whatever else is given.

        Any thread may call it, one at a time; in a distributed training every process calls it.

        Args:
            epoch: Number of epochs trained; 0 is initialisation, before any training.
            lr: The learning rate of this epoch, logged as ``lr_now``. The rank bounds need it, and
                that all steps since the epoch logged before had it.
            **more: Further numbers by name, such as ``test_accuracy``; also tensors of one element.

        Returns:
            The metrics by W&B's names, NaN where there is no value, and as its ``spectra`` the
            singular values by layer; empty on ranks other than 0.

        Raises:
            ValueError: The epoch is no whole number or negative, or not after those of a record
                that was resumed; a value is no number, a name is that of a quantity, or the watcher
                was closed.
        """
        with self._logging:
            return self._log(epoch, more if lr is None else {"lr_now": lr, **more})

    def _log(self, epoch: int, more: Mapping[str, Any]) -> Row:
        """Does what `log` says.

        Returns:
            As `log`.

        Raises:
            ValueError: As `log`.
        """
        if self._closed:
            raise ValueError(f"epoch {epoch}: the watcher was closed, watch the model anew")
        if epoch != int(epoch) or epoch < 0:
            raise ValueError(f"epoch must be a whole number, 0 or more, got {epoch}")
        epoch = int(epoch)
        given = {name: _number(name, value) for name, value in more.items()}
        if self._follows is not None and epoch <= self._follows:
            raise ValueError(
                f"epoch {epoch}: the training that is resumed has reached epoch {self._follows}; "
                "go on after it, or give load_state_dict the state of the epoch to go on from"
            )
        if not _is_main_process():
            self._help_to_gather()
            return Row()
        weights = self.weights()
        if "lr_now" in given:
            self._note_rate(epoch, given["lr_now"])
        measurement = self.measure(epoch, self._rates[:epoch], weights)
        taken = sorted(given.keys() & measurement.metrics.keys())
        if taken:
            raise ValueError(f"{', '.join(taken)}: measured here, log it under another name")
        row = Row({"epoch": float(epoch), **given, **measurement.metrics}, measurement.spectra)
        if self._record is not None:
            self._record.append(epoch, row, measurement.spectra, measurement.directions)
        self._follows = None
        self._epoch = epoch
        if self._rows is not None:
            # Without a step: the loop's own is W&B's to count.
            self._rows.log(row, measurement.spectra)
        snapshot = {name: weight.clone() for name, weight in weights.items()}
        self.advance(snapshot, measurement.directions)
        return row

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep: tensors and numbers, the rates among them."""
        return {**super().state_dict(), "rates": list(self._rates), "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that ``state_dict`` gave, also one before the record's last epoch.

        Args:
            state: Of a watcher of the same module.
        """
        super().load_state_dict(state)
        self._rates = list(state["rates"])
        if self._follows is not None and state.get("epoch") is not None:
            self._follows = min(self._follows, state["epoch"])

    def close(self, state: str = "finished") -> None:
        """Ends the record; nothing can be logged after that. The end of the program does the same.

        Where there is a W&B run, the record becomes one of its files, from which `lowrank.load_run`
        and every command read it.

        Args:
            state: How the training ended, as the record keeps it.
        """
        self._closed = True
        if self._record is not None:
            self._record.set_state(state)
            self._record.close()
            _RECORDS.pop(self._record.path.resolve(), None)
            self._lock.release()
            self._send(self._record.path)
            self._record = None
            atexit.unregister(self._close_at_exit)

    def _send(self, record: Path) -> None:
        if self._run is None or self._prefix or self._run.disabled:
            return  # of several watchers on one run, that without a prefix has the run's record
        from wandb import Error

        from lowrank.tracking.files import send_record

        try:
            send_record(self._run, record)
        except (Error, OSError) as error:  # such as of a run that has ended
            warnings.warn(f"{record} was not sent to W&B: {error}", stacklevel=3)

    def _take(self, run: wandb.Run, prefix: str) -> None:
        """Begins to log to a W&B run.

        Raises:
            InputError: If another watcher does so under the same names.
        """
        others = _LOGGING.setdefault(run, weakref.WeakValueDictionary())
        if prefix in others and not others[prefix]._closed:
            raise InputError(
                f"another watcher logs to the W&B run {run.id} under the same names: close it, or "
                "give this one a prefix of its own, such as prefix='second/'"
            )
        others[prefix] = self
        self._rows = RowLogger(run, rank_norm=self.rank_norm, prefix=prefix)

    def _open(self, path: Path, resume: bool) -> None:
        """Opens the record and keeps it for this watcher.

        Raises:
            InputError: If a watcher of this process has it, or as `_take_up`.
        """
        file = path if path.suffix == ".sqlite" else path / RECORD_NAME
        if file.resolve() in _RECORDS:
            raise InputError(
                f"{file}: an earlier call of watch in this process writes this record, as where a "
                "cell of a notebook is run twice: call close() of that watcher first, then choose "
                "another place, or go on with resume=True"
            )
        self._lock = lock(file.parent)
        try:
            self._record = self._begin(file, resume)
        except BaseException:
            self._lock.release()
            raise
        _RECORDS[file.resolve()] = self
        atexit.register(self._close_at_exit)

    def _begin(self, file: Path, resume: bool) -> Record:
        """Makes the record, or goes on with the one that there is.

        Returns:
            The record, open.
        """
        from lowrank.runs.environment import describe_environment, program_root

        own = {} if self._run is None else dict(self._run.config)
        told = {name: value for name, value in self._told.items() if value is not None}
        config = {**self._theory_told, **own, **told}
        devices = (parameter.device for parameter in self._model.parameters())
        environment = describe_environment(
            device=next(devices, torch.device("cpu")),
            threads=torch.get_num_threads(),
            argv=sys.argv,
            root=program_root(),
        )
        if file.exists():
            self._take_up(file, resume)
            record = Record.open(file)
            record.begin_session(config, environment)
            return record
        return Record.create(
            file,
            run_id=file.parent.resolve().name if self._run is None else self._run.id,
            config=config,
            environment=environment,
            layers=[*self.layers, *self.derived.layers],
        )

    def _take_up(self, file: Path, resume: bool) -> None:
        """Restores what collapse and bounds refer to; all else needs ``load_state_dict``.

        Raises:
            InputError: If the record is not to be continued, or not one of this network and of
                these options.
        """
        run = load_run(file)
        epochs = run.epochs.tolist()
        if not resume:
            reached = f"up to epoch {epochs[-1]}" if epochs else "without an epoch"
            raise InputError(
                f"{file}: holds the record of a training already, {reached} ({run.state}): choose "
                "another place, or go on with that training: resume=True"
            )
        if [*run.layers, *run.derived] != [*self.layers, *self.derived.layers]:
            raise InputError(
                f"{file} is of another network, or was begun with other exclude, include, "
                "example_input, attention_products or spectra_of; choose another place"
            )
        for name, now in self._told.items():  # earlier versions recorded none, and had no last
            before = run.config.get(name, None if name == "directions" else now)
            if before != now:
                raise InputError(
                    f"{file} was begun with {name}={before}, got {now}: give the same, or choose "
                    "another place"
                )
        for layer in self.layers if epochs else ():
            norms = run.metrics[f"spectral_norm/{layer.name}"].tolist()
            for epoch, norm in zip(epochs, norms, strict=True):
                self._norms.setdefault(epoch, {})[layer.name] = norm
            for norm in run.metrics[f"frobenius_norm/{layer.name}"].tolist():
                self._note_norm(layer.name, norm)
        for epoch, rate in zip(epochs, run.metrics.get("lr_now", ()), strict=False):
            if np.isfinite(rate):
                self._note_rate(epoch, float(rate))
        self._follows = self._epoch = epochs[-1] if epochs else None

    def _note_rate(self, epoch: int, rate: float) -> None:
        # Epochs that were not logged are taken to have had the rate of the next that was; those
        # after this one, of a training that went back, are forgotten.
        del self._rates[max(epoch - 1, 0) :]
        self._rates += [rate] * (epoch - len(self._rates))

    def _close_at_exit(self) -> None:
        # The interpreter leaves here the exception that ended the program.
        self.close("failed" if getattr(sys, "last_value", None) is not None else "finished")


_RECORDS: dict[Path, LoggingWatcher] = {}
"""Who in this process writes a record."""

_LOGGING: weakref.WeakKeyDictionary[wandb.Run, weakref.WeakValueDictionary[str, LoggingWatcher]] = (
    weakref.WeakKeyDictionary()
)
"""Who in this process logs to a W&B run, by prefix."""


def watch(
    model: nn.Module,
    *,
    run: wandb.Run | None = None,
    record: str | Path | None = None,
    resume: bool = False,
    prefix: str = "",
    **options: Any,
) -> LoggingWatcher:
    """Watches the rank of a module's weight matrices from any training loop.

    Args:
        model: Any module; wrapped by ``torch.compile`` or ``DistributedDataParallel`` or not.
        run: A W&B run that gets a row per call of ``log``, under the names that train.py uses.
        record: Where to write a run record that `lowrank.load_run` reads: a directory or a file.
        resume: Whether a record that exists there is continued: by the same training, so that the
            epochs logged follow on. Without, it is refused.
        prefix: What stands before each name but ``epoch`` in W&B, where several watchers log to one
            run.
        **options: Those of `Watcher`: ``exclude``, ``include``, ``example_input``, ``epsilons``,
            ``rank_norm``, ``parts``, ``split``, ``theory``, ``quantities``, ``directions``,
            ``attention_products``, ``spectra_of``.

    Returns:
        The watcher; call its ``log(epoch, …)`` before training and after every epoch.

    Raises:
        InputError: A name in an option matches nothing, the module has no weight
            matrix or no values yet, the record exists or is of another network, or another watcher
            logs to the run under the same names.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> row = watch(model).log(0, test_accuracy=0.5)
        >>> row["rank_mean"], row["rank/2"], row["test_accuracy"]
        (3.0, 2.0, 0.5)
        >>> row.spectra["2"].shape
        (2,)
    """
    return LoggingWatcher(model, run=run, record=record, resume=resume, prefix=prefix, **options)


def _number(name: str, value: Any) -> float:
    """Returns what was given as a number: also of a tensor of one element.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, torch.Tensor | np.ndarray):
        if math.prod(value.shape) != 1:
            raise ValueError(f"{name} must be a number, got one of shape {tuple(value.shape)}")
        value = value.item()
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None


def _plain_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options as JSON takes them."""
    return {name: v.item() if hasattr(v, "item") else v for name, v in options.items()}


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )


class _Module(ModuleType):
    """``lowrank.watch`` is this module once it is imported, and stays callable as its function."""

    __call__ = staticmethod(watch)


sys.modules[__name__].__class__ = _Module
