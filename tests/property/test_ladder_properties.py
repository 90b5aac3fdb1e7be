"""The ladder of degradations: monotone, and calm under a steady load."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from perception.config.schema import LadderConfig
from perception.pipeline.ladder import FULL, MAX_PATIENCE, Ladder, rungs_of

BUDGET_NS = 100
CONFIG = LadderConfig(cameras=(4, 2), small_model="small", skip=(2, 4), slow_frames=2, calm_frames=5, headroom=0.3)
TOP = 5
Frame = tuple[int, bool]
FRAMES = st.lists(st.tuples(st.integers(-BUDGET_NS, BUDGET_NS), st.booleans()), max_size=200)


def levels(frames: Sequence[Frame], config: LadderConfig = CONFIG) -> list[int]:
    ladder = Ladder(config)
    found = []
    for slack, is_overloaded in frames:
        ladder.observe(slack_ns=slack, budget_ns=BUDGET_NS, is_overloaded=is_overloaded)
        found.append(ladder.rung.level)
    return found


def test_each_rung_leaves_out_more() -> None:
    rungs = rungs_of(CONFIG)
    assert [rung.text for rung in rungs] == [
        "",
        "4 cameras",
        "2 cameras",
        "2 cameras, small model",
        "2 cameras, small model, 1 of 2 frames",
        "2 cameras, small model, 1 of 4 frames",
    ]
    assert rungs[0] == FULL
    assert [rung.level for rung in rungs] == list(range(TOP + 1))


def test_without_rungs_it_never_moves() -> None:
    assert set(levels([(-1, True)] * 50, LadderConfig())) == {0}


@given(frames=FRAMES)
def test_it_moves_one_rung_at_a_time_and_only_after_enough_frames(frames: list[Frame]) -> None:
    found = [0, *levels(frames)]
    last_change = 0
    for i in range(1, len(found)):
        step = found[i] - found[i - 1]
        assert abs(step) <= 1
        if step:
            assert i - last_change >= (CONFIG.slow_frames if step > 0 else CONFIG.calm_frames)
            last_change = i
    assert all(0 <= level <= TOP for level in found)


@given(frames=FRAMES, at=st.integers(0, 199))
def test_one_slower_frame_never_leads_to_a_lower_rung_right_then(frames: list[Frame], at: int) -> None:
    """The decision on a frame is monotone in its slack, and in whether it was overloaded."""
    past, (slack, is_overloaded) = frames[:at], (frames[at] if at < len(frames) else (0, False))
    worst = levels([*past, (-1, True)])[-1]
    this = levels([*past, (slack, is_overloaded)])[-1]
    best = levels([*past, (BUDGET_NS, False)])[-1]
    assert best <= this <= worst


@settings(deadline=None)
@given(capacity=st.integers(0, TOP), frames=st.integers(1000, 4000))
def test_under_a_steady_load_the_changes_die_away(capacity: int, frames: int) -> None:
    """A load that needs rung `capacity`: frames below it are slow, those on it have headroom."""
    ladder = Ladder(CONFIG)
    changes, slow = 0, 0
    for _ in range(frames):
        before = ladder.rung.level
        is_slow = before < capacity
        slow += is_slow
        ladder.observe(slack_ns=-1 if is_slow else BUDGET_NS, budget_ns=BUDGET_NS, is_overloaded=is_slow)
        changes += ladder.rung.level != before
    doublings = MAX_PATIENCE.bit_length()
    steady = frames // (CONFIG.calm_frames * MAX_PATIENCE)
    assert changes <= capacity + 2 * (doublings + steady + 1)
    assert slow <= CONFIG.slow_frames * changes + CONFIG.slow_frames


def test_it_comes_down_again_when_the_load_goes() -> None:
    found = levels([(-1, False)] * 20 + [(BUDGET_NS, False)] * 200)
    assert max(found) == TOP
    assert found[-1] == 0


def test_a_frame_that_is_neither_slow_nor_calm_ends_both_rows() -> None:
    assert levels([(-1, False), (10, False)] * 20) == [0] * 40


@pytest.mark.parametrize("wrong", [{"cameras": (2, 4)}, {"skip": (4, 2)}, {"skip": (1,)}])
def test_rungs_in_the_wrong_order_are_refused(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValidationError):
        LadderConfig.model_validate(wrong)
