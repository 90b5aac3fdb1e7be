"""What `perception diff` makes of two runs: each kind of difference alone, and none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.core.errors import UsageError
from perception.core.results import Detections, PerceptionResult
from perception.evaluation.run_diff import Tolerance, diff_runs
from perception.queues.samples import sample_result


def run(seed: int = 0, frames: int = 4) -> list[PerceptionResult]:
    """Boxes far from each other, each on a track of its own, with scores well above the lowest."""
    rng = np.random.default_rng(seed)
    results = []
    for sequence in range(frames):
        result = sample_result(rng, sequence=sequence, detections=8)
        found = replace(
            result.detections,
            center_m=np.stack([np.arange(8) * 10, np.zeros(8), np.zeros(8)], axis=1).astype(np.float32),
            score=np.linspace(0.9, 0.2, 8, dtype=np.float32),
            track_id=np.arange(8),
        )
        results.append(replace(result, detections=found))
    return results


def changed(result: PerceptionResult, **fields: np.ndarray) -> PerceptionResult:
    return replace(result, detections=replace(result.detections, **fields))


def test_a_run_is_the_same_as_itself() -> None:
    found = diff_runs(run(), run(), Tolerance())
    assert found.is_same
    assert (found.frames, found.boxes, found.lost, found.gained) == (4, 32, 0, 0)
    assert all(spread.largest == 0 for spread in found.spreads.values())


@given(order=st.permutations(range(8)), seed=st.integers(0, 20))
def test_the_order_of_boxes_says_nothing(order: list[int], seed: int) -> None:
    first = run(seed)
    second = [replace(result, detections=result.detections.rows(np.array(order))) for result in first]
    assert diff_runs(first, second, Tolerance()).is_same


def test_a_box_that_moved_is_measured() -> None:
    second = run()
    second[2] = changed(second[2], center_m=second[2].detections.center_m + np.array([0, 0.3, 0.4], dtype=np.float32))
    found = diff_runs(run(), second, Tolerance())
    assert found.spreads["position_m"].largest == pytest.approx(0.5, rel=1e-5)
    assert found.beyond == ("position_m 0.5 > 0.05",)
    assert diff_runs(run(), second, Tolerance(position_m=0.6)).is_same


def test_a_box_that_turned_around_the_circle_did_not_turn() -> None:
    second = [changed(r, yaw_rad=(r.detections.yaw_rad + 2 * np.pi).astype(np.float32)) for r in run()]
    assert diff_runs(run(), second, Tolerance()).is_same


def test_a_box_of_another_class_is_another_box() -> None:
    second = run()
    classes = second[0].detections.class_index.copy()
    classes[0] = (classes[0] + 1) % 10
    second[0] = changed(second[0], class_index=classes)
    found = diff_runs(run(), second, Tolerance())
    assert (found.lost, found.gained, found.boxes) == (1, 1, 31)
    assert not found.is_same


def test_a_box_at_the_edge_of_what_is_published_may_come_and_go() -> None:
    second = [replace(r, detections=r.detections.rows(np.arange(7))) for r in run()]
    assert diff_runs(run(), second, Tolerance()).is_same
    sure = [replace(r, detections=r.detections.rows(np.arange(1, 8))) for r in run()]
    assert diff_runs(run(), sure, Tolerance()).lost == 4


def test_other_names_of_tracks_say_nothing_but_other_tracks_do() -> None:
    renamed = [changed(r, track_id=r.detections.track_id + 100) for r in run()]
    assert diff_runs(run(), renamed, Tolerance()).is_same
    swapped = run()
    swapped[3] = changed(swapped[3], track_id=swapped[3].detections.track_id[[1, 0, 2, 3, 4, 5, 6, 7]])
    assert diff_runs(run(), swapped, Tolerance()).identity_changes == 2


def test_another_message_is_named_by_its_sensor() -> None:
    second = run()
    first_sensor, *others = second[1].sensors
    second[1] = replace(second[1], sensors=(replace(first_sensor, age_ns=1), *others))
    found = diff_runs(run(), second, Tolerance())
    assert found.sync_changes == {"camera_front": 1}
    assert not found.is_same
    assert diff_runs(run(), second, Tolerance(sync=False)).is_same


def test_frames_of_one_run_alone_are_counted() -> None:
    found = diff_runs(run(), run()[1:], Tolerance())
    assert (found.frames, found.missing, found.added) == (3, 1, 0)
    assert not found.is_same
    assert diff_runs(run(), run()[1:], Tolerance(frames=1)).is_same


def test_a_path_that_bends_away_is_measured() -> None:
    second = run()
    hints = second[0].path_hints
    second[0] = replace(
        second[0], path_hints=replace(hints, waypoints_m=hints.waypoints_m + np.array([0, 1], dtype=np.float32))
    )
    assert diff_runs(run(), second, Tolerance()).spreads["path_m"].largest == pytest.approx(1, rel=1e-5)
    second[0] = replace(second[0], path_hints=replace(hints, times_s=hints.times_s * 2))
    found = diff_runs(run(), second, Tolerance())
    assert (found.other_paths, found.is_same) == (1, False)


def test_empty_frames_are_the_same() -> None:
    empty = [replace(result, detections=Detections.empty()) for result in run()]
    assert diff_runs(empty, empty, Tolerance()).is_same
    found = diff_runs(run(), empty, Tolerance())
    assert found.lost == 4 * 7  # the lowest score of all is at the edge


def test_what_differs_to_begin_with_is_told() -> None:
    second = [replace(r, provenance=replace(r.provenance, model_hash="feedbeef")) for r in run()]
    found = diff_runs(run(), second, Tolerance())
    assert found.is_same
    assert found.notes == ("model: tiny 0123456789abcdef, then tiny feedbeef",)


def test_runs_of_other_drives_cannot_be_compared() -> None:
    other = [replace(result, reference_ns=result.reference_ns + 1) for result in run()]
    with pytest.raises(UsageError, match="no reference time in common"):
        diff_runs(run(), other, Tolerance())
