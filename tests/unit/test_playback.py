"""Pause, step, seek and rate, with the player in a thread of its own; all that is asked is whether it waits."""

import threading
import time

import pytest

from perception.core.errors import UsageError
from perception.pipeline.playback import Playback

FOREVER = float("inf")
PATIENCE_S = 20.0


class Player:
    """Plays messages at given positions; every `result_every`-th brings a result."""

    def __init__(self, playback: Playback, positions: list[float], result_every: int = 1) -> None:
        self.played: list[float] = []
        self._playback = playback
        self._positions = positions
        self._every = result_every
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def _play(self) -> None:
        self._playback.begin(self._positions[0])
        for count, position in enumerate(self._positions, start=1):
            if not self._playback.wait_until(position):
                return
            self.played.append(position)
            if count % self._every == 0:
                self._playback.delivered()

    def await_count(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self.played) < count:
            assert time.monotonic() < deadline, self.played
            time.sleep(0.001)

    def rests_at(self, count: int) -> bool:
        """Whether it played so many and then nothing more."""
        self.await_count(count)
        time.sleep(0.05)
        return len(self.played) == count and self._thread.is_alive()

    def ends(self) -> bool:
        self._thread.join(PATIENCE_S)
        return not self._thread.is_alive()


def paused(rate: float = FOREVER, duration_s: float | None = 100.0) -> Playback:
    playback = Playback(rate, duration_s)
    playback.pause()
    return playback


def test_it_waits_while_paused_and_plays_all_when_resumed() -> None:
    playback = paused()
    player = Player(playback, [0.0, 1.0, 2.0])
    assert player.rests_at(0)
    playback.toggle()
    assert player.ends()
    assert player.played == [0.0, 1.0, 2.0]


def test_a_step_goes_to_the_next_result() -> None:
    playback = paused()
    player = Player(playback, [float(k) for k in range(9)], result_every=3)
    playback.step()
    assert player.rests_at(3)
    playback.step()
    playback.step()
    assert player.ends()
    assert playback.status.results == 3
    assert playback.status.position_s == 8.0


def test_a_step_while_it_plays_pauses_it() -> None:
    playback = Playback(1e-6, 100.0)
    player = Player(playback, [0.0, 1.0])
    player.await_count(1)
    playback.step()
    assert playback.status.paused


def test_a_seek_ends_the_lap_and_says_where_to_go() -> None:
    playback = paused()
    player = Player(playback, [0.0, 1.0])
    playback.seek(42.0)
    assert player.ends()
    assert (player.played, playback.is_cut, playback.target_s) == ([], True, 42.0)
    playback.begin(42.0)
    assert (playback.is_cut, playback.target_s) == (False, None)
    assert playback.status.position_s == 42.0


def test_to_quit_ends_it_for_good() -> None:
    playback = paused()
    player = Player(playback, [0.0])
    playback.seek(3.0)
    playback.quit()
    assert player.ends()
    assert (playback.is_cut, playback.target_s) == (True, None)


def test_seeking_by_steps_stays_in_the_drive() -> None:
    playback = paused(duration_s=7.0)
    playback.begin(5.0)
    playback.seek_by(5.0)
    assert playback.target_s == 7.0
    playback.begin(2.0)
    playback.seek_by(-5.0)
    assert playback.target_s == 0.0


@pytest.mark.parametrize("to_s", [-1.0, 7.1, FOREVER, float("nan")])
def test_places_that_are_not_in_the_drive_are_refused(to_s: float) -> None:
    playback = paused(duration_s=7.0)
    with pytest.raises(UsageError, match="from 0 to"):
        playback.seek(to_s)
    assert not playback.is_cut


def test_a_change_of_rate_is_felt_by_who_waits() -> None:
    playback = Playback(1e-6, None)
    player = Player(playback, [0.0, 1.0, 2.0])
    assert player.rests_at(1)
    playback.set_rate(FOREVER)
    assert player.ends()


def test_rates_go_up_to_as_fast_as_it_goes_and_back() -> None:
    playback = Playback(32.0, None)
    playback.faster()
    playback.faster()
    assert playback.status.rate == FOREVER
    playback.slower()
    assert playback.status.rate == 64.0
    with pytest.raises(UsageError, match="not positive"):
        playback.set_rate(0.0)


def test_the_pace_is_kept_after_a_pause() -> None:
    """The time of the pause is not made up for: what follows is as far away as it was."""
    playback = Playback(1.0, None)
    player = Player(playback, [0.0, 1.0])
    player.await_count(1)
    playback.pause()
    time.sleep(1.2)
    playback.resume()
    assert len(player.played) == 1
    assert player.ends()
