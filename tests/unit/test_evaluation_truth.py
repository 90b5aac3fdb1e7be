"""When a source is asked for its truth, and which truth counts."""

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import se3, se3_from_yaw
from perception.core.labels import Labels
from perception.core.messages import EgoState
from perception.core.ports import TruthSource
from perception.evaluation.planning import STEPS_S
from perception.evaluation.truth import DriveTruth, TruthCollector
from perception.sources.memory import MemorySource
from perception.sources.synthetic_rig import synthetic_rig

F64 = NDArray[np.float64]
SECOND_NS = 1_000_000_000
SPEED_MPS = 10.0


def labels_at(time_ns: int, center_m: tuple[float, float] = (20.0, 3.0), yaw_rad: float = 0.0) -> Labels:
    return Labels(
        reference_ns=time_ns,
        category=("car",),
        class_index=np.zeros(1, dtype=np.int64),
        center_m=np.array([[*center_m, 0.8]]),
        size_m=np.array([[4.0, 2.0, 1.5]]),
        quaternion_wxyz=np.array([[np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)]]),
        velocity_mps=np.array([[2.0, 0.0]]),
        attribute_index=np.zeros(1, dtype=np.int64),
        track_id=("car-1",),
        num_lidar_points=np.ones(1, dtype=np.int64),
        num_radar_points=np.zeros(1, dtype=np.int64),
    )


def pose(time_ns: int, error_m: float = 0.0) -> EgoState:
    world = se3(translation=(SPEED_MPS * time_ns / 1e9 + error_m, 0.0, 0.0))
    return EgoState(capture_ns=time_ns, arrival_ns=time_ns, world_SE3_ego=world)


class FakeWorld(MemorySource):
    """Knows the exact path once its messages have come that far; its poses are half a metre off later on."""

    def __init__(self, end_s: int, label_times_ns: tuple[int, ...]) -> None:
        poses = [pose(t, 0.5 if t > SECOND_NS else 0.0) for t in range(0, end_s * SECOND_NS + 1, SECOND_NS // 10)]
        super().__init__(synthetic_rig(), poses, {time: labels_at(time) for time in label_times_ns}, drive_id="world")
        self.now_ns = 0
        self.asked: list[tuple[str, int, int]] = []

    def labels(self, reference_ns: int) -> Labels | None:
        self.asked.append(("labels", reference_ns, self.now_ns))
        return super().labels(reference_ns)

    def drivable(self, reference_ns: int, half_m: float, cell_m: float) -> NDArray[np.bool_]:
        raise AssertionError("nobody evaluates the drivable area")

    def future_path(self, reference_ns: int, times_s: F64) -> F64:
        self.asked.append(("path", reference_ns, self.now_ns))
        if reference_ns + times_s[-1] * 1e9 > self.now_ns:
            raise ValueError("not driven yet")
        return np.stack([SPEED_MPS * times_s, np.zeros(len(times_s))], axis=1)


def collected(world: FakeWorld) -> DriveTruth:
    collector = TruthCollector(world, world.label_times_ns)
    for message in world.messages():
        world.now_ns = message.arrival_ns
        collector.observe(message)
    return collector.finish()


def test_truth_is_asked_for_as_soon_as_it_can_be_known() -> None:
    world = FakeWorld(5, (0, SECOND_NS, 4 * SECOND_NS))
    assert isinstance(world, TruthSource)
    collected(world)
    assert world.asked == [
        ("labels", 0, SECOND_NS // 5),
        ("labels", SECOND_NS, SECOND_NS * 6 // 5),
        ("path", 0, 3 * SECOND_NS),
        ("path", SECOND_NS, 4 * SECOND_NS),
        ("labels", 4 * SECOND_NS, SECOND_NS * 21 // 5),
        ("path", 4 * SECOND_NS, 5 * SECOND_NS),  # at the end; in vain
    ]


def test_the_exact_path_counts_before_that_of_the_poses() -> None:
    truth = collected(FakeWorld(5, (0, SECOND_NS, 4 * SECOND_NS)))
    exact, is_known = truth.path_at(0)
    assert is_known.all()
    assert exact[-1] == pytest.approx([30.0, 0.0])
    from_poses, is_known = truth.path_at(4 * SECOND_NS)
    assert is_known.tolist() == [True, True, False, False, False, False]
    assert from_poses[1] == pytest.approx([10.0, 0.0])
    assert truth.poses.path_at(0, STEPS_S)[0][-1] == pytest.approx([30.5, 0.0])


def test_boxes_are_seen_from_the_reference() -> None:
    """The box stands 20 m ahead of an ego that has driven 5 m by the first step."""
    world = FakeWorld(3, tuple(range(0, 3 * SECOND_NS, SECOND_NS // 2)))
    boxes = collected(world).boxes_at(0)
    assert boxes[0] is not None
    assert boxes[0][0] == pytest.approx([25.0, 3.0, 4.0, 2.0, 0.0])
    assert boxes[5] is None  # three seconds on nothing is labelled


def test_boxes_of_a_near_time_are_moved_on() -> None:
    """Labels 100 ms before the step: the box went on 0.2 m by then, the ego's own way does not matter."""
    world = FakeWorld(2, (0, SECOND_NS * 4 // 10))
    boxes = collected(world).boxes_at(0)
    assert boxes[0] is not None
    assert boxes[0][0, :2] == pytest.approx([4.0 + 20.0 + 0.2, 3.0])


def test_a_turned_ego_turns_boxes() -> None:
    turned = [
        EgoState(capture_ns=t, arrival_ns=t, world_SE3_ego=se3_from_yaw(np.pi / 2 * t / SECOND_NS))
        for t in (0, SECOND_NS // 2, SECOND_NS)
    ]
    labels = {time: labels_at(time, center_m=(10.0, 0.0), yaw_rad=0.1) for time in (0, SECOND_NS)}
    source = MemorySource(synthetic_rig(), turned, labels, drive_id="turning")
    collector = TruthCollector(source, source.label_times_ns)
    for message in source.messages():
        collector.observe(message)
    boxes = collector.finish().boxes_at(0)
    assert boxes[1] is not None
    assert boxes[1][0] == pytest.approx([0.0, 10.0, 4.0, 2.0, np.pi / 2 + 0.1])


def test_times_without_labels_after_all_are_refused() -> None:
    source = MemorySource(synthetic_rig(), [pose(0)], drive_id="empty/3")
    with pytest.raises(DriveError, match="empty/3: none of its label times has labels"):
        TruthCollector(source, (0, SECOND_NS)).finish()
