"""Clocks: a replay's data time, and one that moves by hand."""

import threading
import time
from collections.abc import Iterator

import pytest

from perception.core.clock import ManualClock, ReplayClock, SystemClock


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A wall clock of one element, in ns; sleeping moves it."""
    now = [1_000]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(time, "time_ns", lambda: now[0])

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1e9)

    monkeypatch.setattr(time, "sleep", sleep)
    return iter([now])


def test_a_replay_at_twice_the_rate_sleeps_half_as_long(wall: Iterator[list[int]]) -> None:
    now = next(wall)
    clock = ReplayClock(5_000_000_000, rate=2.0)
    assert clock.now_ns() == 5_000_000_000
    clock.sleep_until(6_000_000_000)
    assert now[0] == 1_000 + 500_000_000
    assert clock.now_ns() == 6_000_000_000
    clock.sleep_until(5_500_000_000)
    assert now[0] == 1_000 + 500_000_000


def test_a_replay_without_limit_never_sleeps(wall: Iterator[list[int]]) -> None:
    now = next(wall)
    clock = ReplayClock(100, rate=float("inf"))
    clock.sleep_until(10**15)
    clock.sleep_until(10**14)
    assert clock.now_ns() == 10**15
    assert now[0] == 1_000


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        ReplayClock(0, rate=rate)


def test_the_system_clock_sleeps_to_a_wall_time(wall: Iterator[list[int]]) -> None:
    now = next(wall)
    SystemClock().sleep_until(2_000_000_000)
    assert now[0] == pytest.approx(2_000_000_000, abs=2)
    SystemClock().sleep_until(0)
    assert SystemClock().now_ns() == now[0]


def test_a_manual_clock_wakes_its_sleepers_and_never_goes_back() -> None:
    clock = ManualClock(10)
    sleeper = threading.Thread(target=clock.sleep_until, args=(50,))
    sleeper.start()
    clock.advance_to(49)
    assert sleeper.is_alive()
    clock.advance_to(50)
    sleeper.join(timeout=10)
    assert not sleeper.is_alive()
    clock.advance_to(20)
    assert clock.now_ns() == 50
