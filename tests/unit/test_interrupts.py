"""Ctrl-C at any line of a run: what came is accounted for, and what was begun is delivered."""

import signal
import sys
from collections.abc import Callable
from contextlib import closing
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.config.load import load_service_config
from perception.core.messages import AnyMessage
from perception.core.results import PerceptionResult
from perception.pipeline.interrupts import Interrupts
from perception.pipeline.replay import ReplayOptions, RunSummary, run_drive
from perception.sources.open import open_drive
from tests.unit.service_parts import FakeEngine

LINES = 20_000


def played(on_line: Callable[[], None]) -> tuple[RunSummary, list[PerceptionResult]]:
    """A drive of half a second; from its first message on, `on_line` is called before each line of what keeps state."""
    has_begun = False

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("perception.pipeline.session", "perception.pipeline.account", "perception.sync")):
            return None
        if event == "line" and has_begun:
            on_line()
        return trace

    def begin(message: AnyMessage) -> None:
        nonlocal has_begun
        has_begun = True

    results: list[PerceptionResult] = []
    with closing(open_drive("synthetic:duration=0.5")) as source:
        sys.settrace(trace)
        try:
            summary = run_drive(
                source,
                FakeEngine(),
                load_service_config(),
                run_id="run",
                on_result=results.append,
                on_message=begin,
                options=ReplayOptions(),
            )
        finally:
            sys.settrace(None)
    return summary, results


@settings(max_examples=30, deadline=None)
@given(st.integers(0, LINES))
def test_an_interrupt_tears_nothing(at_line: int) -> None:
    lines = 0

    def on_line() -> None:
        nonlocal lines
        if lines == at_line:
            signal.raise_signal(signal.SIGINT)
        lines += 1

    summary, results = played(on_line)
    assert lines > at_line, "the run was over before"
    assert summary.end.reason == "interrupted"
    assert summary.account.is_exact
    assert [result.sequence for result in results] == list(range(summary.end.count))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_ends_what_hangs() -> None:
    def hang(interrupts: Interrupts) -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("it went on")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        hang(interrupts)


def test_an_interrupt_outside_what_is_held_comes_at_once() -> None:
    with Interrupts() as interrupts:
        with interrupts.held():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handler_of_somebody_else_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Interrupts() as interrupts, interrupts.held():
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
