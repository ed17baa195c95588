"""Waiting for a long call while listening for the user."""

from __future__ import annotations

import threading
import time

import pytest

from vividcover.errors import Canceled, ParameterError
from vividcover.patience import Patient
from vividcover.workspace import Silent


class Stoppable(Silent):
    stopped = False

    def check(self) -> None:
        if self.stopped:
            raise Canceled()


def test_a_call_returns_what_the_function_returns_and_all_calls_share_a_thread() -> None:
    with Patient(Silent()) as patient:
        assert patient.call(divmod, 7, 2) == (3, 1)
        threads = {patient.call(threading.get_ident) for _ in range(3)}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_an_error_is_raised_as_it_is_and_the_next_call_works() -> None:
    def fail() -> None:
        raise ParameterError("wrong", "do it right")

    with Patient(Silent()) as patient:
        with pytest.raises(ParameterError, match="wrong"):
            patient.call(fail)
        assert patient.call(int, "3") == 3


def test_the_caller_is_back_within_a_moment_and_the_call_is_told_to_stop() -> None:
    reporter, told = Stoppable(), threading.Event()
    threading.Timer(0.1, lambda: setattr(reporter, "stopped", True)).start()
    began = time.monotonic()
    with Patient(reporter, told.set) as patient, pytest.raises(Canceled):
        patient.call(told.wait, 20.0)
    assert time.monotonic() - began < 1.0 and told.is_set()


def test_who_waits_is_called_at_every_look() -> None:
    looks: list[float] = []
    with Patient(Silent(), meanwhile=lambda: looks.append(time.monotonic())) as patient:
        patient.call(time.sleep, 0.5)
    assert len(looks) >= 3


def test_a_caller_that_is_already_canceled_starts_nothing() -> None:
    reporter, begun = Stoppable(), threading.Event()
    reporter.stopped = True
    with Patient(reporter) as patient, pytest.raises(Canceled):
        patient.call(begun.set)
    assert not begun.is_set()


def test_a_call_computes_with_as_many_threads_as_were_chosen_from_its_first_product_on() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(0)
        x, weight = (torch.randn(*size, generator=generator) for size in ((34, 800), (24, 800)))
        with Patient(Silent()) as patient:
            there = patient.call(torch.nn.functional.linear, x, weight)
        assert torch.equal(there, torch.nn.functional.linear(x, weight))
    finally:
        torch.set_num_threads(before)
