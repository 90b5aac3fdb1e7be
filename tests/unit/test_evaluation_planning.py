"""Planning metrics on examples worked out by hand, under both conventions."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.results import PathHints
from perception.evaluation.planning import (
    STEPS_S,
    EgoShape,
    PlannedFrame,
    collides,
    constant_arc,
    evaluate_planning,
    overlaps,
)

F64 = NDArray[np.float64]
FREE: F64 = np.zeros((0, 5))
SPEED_MPS = 10.0


def straight_on() -> F64:
    return np.stack([SPEED_MPS * STEPS_S, np.zeros(6)], axis=1)


def drifting() -> F64:
    """Half a metre further off to the left at each step."""
    return straight_on() + np.stack([np.zeros(6), 0.5 * np.arange(1, 7)], axis=1)


def frame(
    *modes: F64, truth: F64 | None = None, boxes: tuple[F64 | None, ...] = (FREE,) * 6, known: int = 6
) -> PlannedFrame:
    confidence = np.linspace(0.9, 0.1, len(modes), dtype=np.float32)
    hints = PathHints(
        confidence=confidence,
        waypoints_m=np.stack(modes).astype(np.float32),
        times_s=STEPS_S.astype(np.float32),
        target_speed_mps=SPEED_MPS,
    )
    return PlannedFrame(
        drive_id="drive",
        reference_ns=0,
        hints=hints,
        truth_m=straight_on() if truth is None else truth,
        is_known=np.arange(6) < known,
        boxes=boxes,
        speed_mps=SPEED_MPS,
        yaw_rate_radps=0.0,
    )


def test_l2_under_both_conventions() -> None:
    """Errors are 0.5, 1.0, ... 3.0 m at the six steps."""
    metrics = evaluate_planning([frame(drifting())])
    assert metrics.best_mode.l2_at_t_m == pytest.approx({1.0: 1.0, 2.0: 2.0, 3.0: 3.0})
    assert metrics.best_mode.l2_mean_to_t_m == pytest.approx({1.0: 0.75, 2.0: 1.25, 3.0: 1.75})
    assert metrics.baseline.l2_at_t_m == pytest.approx({1.0: 0.0, 2.0: 0.0, 3.0: 0.0})


def test_collisions_under_both_conventions() -> None:
    """A car beside the true path, where the hint is after two seconds and at no other step: 4.3 m reach, 5 m steps."""
    parked = np.array([[20.0 + 1.4, 2.0, 4.0, 2.0, 0.0]])
    metrics = evaluate_planning([frame(drifting(), boxes=(parked,) * 6)])
    assert metrics.best_mode.collision_at_t == pytest.approx({1.0: 0.0, 2.0: 1.0, 3.0: 0.0})
    assert metrics.best_mode.collision_mean_to_t == pytest.approx({1.0: 0.0, 2.0: 1 / 4, 3.0: 1 / 6})
    assert metrics.baseline.collision_mean_to_t == pytest.approx({1.0: 0.0, 2.0: 0.0, 3.0: 0.0})


def test_figures_are_means_over_frames() -> None:
    parked = np.array([[21.4, 2.0, 4.0, 2.0, 0.0]])
    metrics = evaluate_planning([frame(drifting(), boxes=(parked,) * 6), frame(straight_on(), boxes=(parked,) * 6)])
    assert metrics.frames == 2
    assert metrics.best_mode.l2_at_t_m[3.0] == pytest.approx(1.5)
    assert metrics.best_mode.collision_at_t[2.0] == pytest.approx(0.5)


def test_a_collision_of_the_true_path_says_nothing_of_the_hint() -> None:
    on_the_road = np.array([[21.4, 0.5, 4.0, 2.0, 0.0]])
    metrics = evaluate_planning([frame(straight_on(), boxes=(on_the_road,) * 6)])
    assert metrics.best_mode.collision_mean_to_t == pytest.approx({1.0: 0.0, 2.0: 0.0, 3.0: 0.0})


def test_displacement_of_the_surest_mode_and_of_the_best() -> None:
    metrics = evaluate_planning([frame(drifting(), straight_on() + np.array([0.0, 0.3]))])
    assert metrics.min_ade_m == pytest.approx({"1": 1.75, "all": 0.3})
    assert metrics.min_fde_m == pytest.approx({"1": 3.0, "all": 0.3})
    assert metrics.miss_rate == pytest.approx({"1": 1.0, "all": 0.0})


def test_the_surest_mode_need_not_come_first() -> None:
    made = frame(drifting(), straight_on())
    hints = replace(made.hints, confidence=np.array([0.2, 0.8], dtype=np.float32))
    assert evaluate_planning([replace(made, hints=hints)]).min_ade_m["1"] == pytest.approx(0.0, abs=1e-6)


def test_what_is_not_known_is_not_counted() -> None:
    """The truth ends after two seconds, the labels after one."""
    parked = np.array([[11.4, 1.0, 4.0, 2.0, 0.0]])
    boxes = (FREE, parked, None, parked, parked, parked)
    metrics = evaluate_planning([frame(drifting() + np.array([0.0, 0.5]), boxes=boxes, known=4)])
    score = metrics.best_mode
    assert metrics.frames == 0
    assert metrics.min_ade_m == {"1": None, "all": None}
    assert score.l2_at_t_m[2.0] == pytest.approx(2.5)
    assert score.l2_at_t_m[3.0] is None
    assert score.collision_at_t[1.0] == pytest.approx(0.0)  # the true path touches it too
    assert score.collision_at_t[2.0] is None


def test_no_frames_give_no_figures() -> None:
    metrics = evaluate_planning([])
    assert metrics.frames == 0
    assert metrics.miss_rate == {"1": None, "all": None}
    assert metrics.baseline.l2_at_t_m == {1.0: None, 2.0: None, 3.0: None}


def test_hints_at_other_times_are_interpolated() -> None:
    made = frame(straight_on())
    sparse = PathHints(
        confidence=np.ones(1, dtype=np.float32),
        waypoints_m=np.array([[[10.0, 0.0], [20.0, 0.0], [30.0, 0.0], [40.0, 0.0]]], dtype=np.float32),
        times_s=np.array([1, 2, 3, 4], dtype=np.float32),
        target_speed_mps=SPEED_MPS,
    )
    assert evaluate_planning([replace(made, hints=sparse)]).min_ade_m["1"] == pytest.approx(0.0, abs=1e-6)


def test_hints_that_end_too_early_are_refused() -> None:
    made = frame(straight_on())
    short = replace(made.hints, waypoints_m=made.hints.waypoints_m[:, :4], times_s=made.hints.times_s[:4])
    with pytest.raises(ValueError, match="path hints reach 2 s, 3 s are scored"):
        replace(made, hints=short)


def test_the_baseline_drives_an_arc() -> None:
    """A quarter turn in three seconds: the chord of a circle of radius speed / yaw rate."""
    yaw_rate = np.pi / 6
    radius = SPEED_MPS / yaw_rate
    assert constant_arc(SPEED_MPS, yaw_rate)[-1] == pytest.approx([radius, radius])


def test_a_standing_ego_keeps_its_heading() -> None:
    """A path that jitters by centimetres: were the ego turned along it, it would reach the box beside it."""
    jitter = np.array([[0.0, 0.03 * (-1) ** i] for i in range(6)])
    beside = np.array([[1.4, 2.2, 4.0, 2.0, 0.0]])
    assert not collides(jitter, (beside,) * 6, EgoShape()).any()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([3.0, 0.0, 2.0, 2.0, 0.0], False),  # side by side, a metre and a half apart from corner to corner
        ([1.9, 0.0, 2.0, 2.0, 0.0], True),
        ([2.3, 0.0, 2.0, 2.0, np.pi / 4], True),  # a corner reaches 1.41 m
        ([2.5, 0.0, 2.0, 2.0, np.pi / 4], False),
        ([1.8, 1.8, 2.0, 2.0, np.pi / 4], False),  # near the corner, but its side is turned to it
        ([1.6, 1.6, 2.0, 2.0, np.pi / 4], True),
        ([0.0, 0.0, 0.1, 0.1, 0.3], True),  # inside
    ],
)
def test_rectangles_overlap(other: list[float], expected: bool) -> None:
    one = np.array([0.0, 0.0, 2.0, 2.0, 0.0])
    assert overlaps(one, np.array([other])).tolist() == [expected]
    assert overlaps(np.array(other), one[None]).tolist() == [expected]
