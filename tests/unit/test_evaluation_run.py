"""A labelled drive through the service in this process, with an engine that knows the truth."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from perception.config.evaluation import EvaluatedDrive, EvaluationPlan, RobustnessPlan
from perception.config.schema import ServiceConfig
from perception.core.errors import DriveError
from perception.core.messages import AnyMessage
from perception.core.rig import Modality
from perception.evaluation.evaluate import Evaluator, Parts
from perception.evaluation.run import DriveRun, frames_of, held, planned_frames, run_labelled, streamed
from perception.evaluation.subsets import SUBSETS, keep_only, subset_name, subsets_of
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from perception.sources.synthetic_world import EGO_SPEED_MPS
from tests.truth_engine import LATENCY_NS, Handle, TruthEngine

WHOLE = frozenset(Modality)


@pytest.fixture(scope="module")
def drive() -> MemorySource:
    made = SyntheticSource(seed=4, duration_s=4.0)
    labels = {time: found for time in made.label_times_ns if (found := made.labels(time)) is not None}
    return MemorySource(made.rig, made.messages(), labels, drive_id=made.drive_id)


@pytest.fixture(scope="module")
def engine(drive: MemorySource) -> TruthEngine:
    return TruthEngine(drive)


@pytest.fixture(scope="module")
def run(drive: MemorySource, engine: TruthEngine) -> DriveRun:
    return run_labelled(drive, engine, ServiceConfig(), subsets=SUBSETS[1:], every_sweep=True, is_kept=True)


def test_the_labelled_times_are_scored_and_no_others(drive: MemorySource, run: DriveRun) -> None:
    assert run.evaluated_ns == drive.label_times_ns
    assert run.missing == 0
    assert len(run.results) > 5 * len(run.evaluated_ns)  # of every sweep
    assert [frame.reference_ns for frame in frames_of(run)] == list(drive.label_times_ns)


def test_without_streaming_only_labelled_sweeps_are_fused(drive: MemorySource) -> None:
    few = run_labelled(drive, TruthEngine(drive), ServiceConfig(), stride=2)
    assert tuple(result.reference_ns for result in few.results) == drive.label_times_ns[::2] == few.evaluated_ns


def test_subsets_are_fused_from_one_encoding(drive: MemorySource, run: DriveRun, engine: TruthEngine) -> None:
    alone = TruthEngine(drive)
    run_labelled(drive, alone, ServiceConfig(), every_sweep=True)
    assert engine.encoded == alone.encoded
    assert engine.fused == alone.fused + 6 * len(run.evaluated_ns)
    for subset in SUBSETS[1:]:
        assert set(run.masked[subset]) == set(run.evaluated_ns)
        has_boxes = any(len(found) for found in run.masked[subset].values())
        assert has_boxes == (Modality.LIDAR in subset)


def test_a_held_drive_gives_the_same_run(drive: MemorySource, run: DriveRun) -> None:
    again = held(drive, run)
    assert again.label_times_ns == run.evaluated_ns
    second = run_labelled(again, TruthEngine(again), ServiceConfig(), every_sweep=True)
    assert [r.reference_ns for r in second.results] == [r.reference_ns for r in run.results]
    assert [len(r.detections) for r in second.results] == [len(r.detections) for r in run.results]


def test_paths_come_with_their_truth(run: DriveRun) -> None:
    frames = planned_frames(run)
    assert len(frames) == len(run.evaluated_ns)
    known = [frame for frame in frames if frame.is_known.all()]
    assert len(known) == 2  # of four seconds the first is followed by three
    for frame in known:
        assert np.abs(frame.truth_m - frame.hints.waypoints_m[0]).max() < 0.02
        assert frame.speed_mps == pytest.approx(EGO_SPEED_MPS, rel=0.01)
        assert all(boxes is not None and boxes.shape[1] == 5 for boxes in frame.boxes)


def test_boxes_beside_a_path_are_those_of_its_time(run: DriveRun) -> None:
    """A second later a standing object is where it was: its place now, in the frame of the reference."""
    time_ns = run.evaluated_ns[0]
    now, later = run.truth.labels[time_ns], run.truth.boxes_at(time_ns)[1]
    assert later is not None
    in_a_second = run.truth.labels[run.evaluated_ns[2]]
    for track, center, velocity in zip(now.track_id, now.center_m, now.velocity_mps, strict=True):
        if track in in_a_second.track_id:
            row = later[in_a_second.track_id.index(track)]
            assert row[:2] == pytest.approx(center[:2] + velocity, abs=0.3)


def test_latency_makes_results_late(run: DriveRun) -> None:
    assert min(run.latencies_ns) >= LATENCY_NS
    prompt, unbegun = streamed(run, latency_ns=0)
    assert len(prompt) == len(run.evaluated_ns)
    assert unbegun <= 0.2 * len(run.results)
    _, unbegun_slow = streamed(run, latency_ns=500_000_000)
    assert unbegun_slow > 0.8 * len(run.results)


def test_perfect_detections_score_one_all_the_way(drive: MemorySource) -> None:
    """The truth through session, tracker and metrics, with subsets, disturbances and streaming."""
    plan = EvaluationPlan(
        latencies_ms=(0.0,),
        robustness=RobustnessPlan(drop_probability=(0.9,), extrinsic_deg=(), frozen_s=(), delay_s=(), stride=1),
    )
    evaluator = Evaluator(TruthEngine(drive), ServiceConfig(), plan, Parts(robustness=True))
    evaluator.add(drive, EvaluatedDrive(path="synthetic:", conditions=("computed",), is_disturbed=True))
    scores = evaluator.scores()
    assert scores["mAP_present"] == pytest.approx(1.0, abs=1e-6)
    assert scores["NDS_present"] == pytest.approx(1.0, abs=1e-3)
    assert scores["missing_frames"] == 0
    assert scores["per_condition"]["computed"]["mAP_present"] == pytest.approx(1.0, abs=1e-6)
    for subset in SUBSETS:
        expected = 1.0 if Modality.LIDAR in subset else 0.0
        assert scores["per_subset"][subset_name(subset)]["mAP_present"] == pytest.approx(expected, abs=1e-6)
    assert scores["tracking"]["AMOTA"] > 0.9
    assert scores["planning"]["min_ade_m"]["1"] < 0.02
    assert scores["latency_ms"]["p50"] >= LATENCY_NS / 1e6
    by_name = {row["name"]: row["mAP_present"] for row in scores["robustness"]}
    assert by_name["as it is"] == pytest.approx(1.0, abs=1e-6)
    assert by_name["90% of frames dropped"] < 0.5  # the engine sees nothing without a sweep
    assert by_name["one camera lost"] == pytest.approx(1.0, abs=1e-6)


def test_an_interrupted_drive_is_not_scored(drive: MemorySource) -> None:
    class Stopped(MemorySource):
        def messages(self) -> Iterator[AnyMessage]:
            yield from islice(super().messages(), 200)
            raise KeyboardInterrupt

    labels = {time: found for time in drive.label_times_ns if (found := drive.labels(time)) is not None}
    stopped = Stopped(drive.rig, drive.messages(), labels)
    with pytest.raises(KeyboardInterrupt):
        run_labelled(stopped, TruthEngine(stopped), ServiceConfig())


def test_a_drive_without_labels_is_named() -> None:
    made = SyntheticSource(seed=1, duration_s=0.5)
    bare = MemorySource(made.rig, made.messages(), drive_id="unlabelled/7")
    with pytest.raises(DriveError, match="unlabelled/7: the drive has no labels"):
        run_labelled(bare, TruthEngine(bare), ServiceConfig())


def test_subsets_are_those_of_the_rig() -> None:
    rig = SyntheticSource(duration_s=0.1).rig
    assert subsets_of(rig) == SUBSETS
    assert len(SUBSETS) == len(set(SUBSETS)) == 7
    assert SUBSETS[0] == WHOLE
    assert [subset_name(subset) for subset in SUBSETS[1:3]] == ["camera+lidar", "camera+radar"]


def test_keeping_only_some_sensors_leaves_the_rest_of_a_request(engine: TruthEngine, run: DriveRun) -> None:
    request = run.requests[run.evaluated_ns[1]]
    names = [*(view.sensor for view in request.cameras), *request.lidars, "radar"]
    only, kept = keep_only(request, [Handle(name) for name in names], frozenset({Modality.RADAR, Modality.CAMERA}))
    assert [handle.key for handle in kept] == [*(view.sensor for view in request.cameras), "radar"]
    assert only.lidars == ()
    assert only.lidar_age_ns == ()
    assert only.speed_mps == request.speed_mps
    assert only.radar_age_ns == request.radar_age_ns
