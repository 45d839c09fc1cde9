"""Signals against what the shell expects of a process that they end."""

from __future__ import annotations

import signal
import threading

import pytest

from lowrank.common.signals import SIGNALS as HANDLED
from lowrank.common.signals import Interrupted, Interruption

SIGNALS = pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)],
    ids=["SIGINT", "SIGTERM", "SIGUSR1"],
)


@SIGNALS
def test_a_signal_ends_the_program_at_once_unless_it_is_deferred(number, code):
    with Interruption(), pytest.raises(KeyboardInterrupt) as raised:
        signal.raise_signal(number)
    assert isinstance(raised.value, Interrupted)
    assert raised.value.exit_code == code


@SIGNALS
def test_a_deferred_signal_is_noted_and_gives_the_exit_code(number, code):
    with Interruption() as interruption:
        with interruption.deferred():
            assert interruption.proceed()
            assert interruption.exit_code == 0
            signal.raise_signal(number)
        assert not interruption.proceed()
        assert (interruption.exit_code, interruption.name) == (code, signal.Signals(number).name)


@SIGNALS
def test_a_second_signal_gets_through(number, code):
    with Interruption() as interruption, interruption.deferred():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as raised:
            signal.raise_signal(number)
        assert raised.value.exit_code == code


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            assert interruption.proceed()
    finally:
        signal.signal(signal.SIGINT, before)


def test_earlier_handlers_come_back():
    before = [signal.getsignal(number) for number in HANDLED]
    with Interruption() as interruption, interruption.deferred():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_outside_the_main_thread_it_does_nothing():
    found = []

    def work():
        with Interruption() as interruption:
            found.append(interruption.proceed())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]
