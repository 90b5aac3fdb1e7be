"""What a degraded drive still tells, and that it does so the same every time."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from perception.config.evaluation import RobustnessPlan
from perception.core.geometry import invert, rotation_log
from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.core.ports import Source
from perception.core.rig import Modality
from perception.evaluation.degradations import Degradation, DegradedSource, one_camera
from perception.evaluation.evaluate import disturbances
from perception.evaluation.subsets import SUBSETS, subset_name
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource

MS = 1_000_000
KIND = {Modality.CAMERA: CameraFrame, Modality.LIDAR: LidarSweep, Modality.RADAR: RadarScan}


@pytest.fixture(scope="module")
def drive() -> MemorySource:
    made = SyntheticSource(seed=2, duration_s=2.0)
    labels = {time: found for time in made.label_times_ns if (found := made.labels(time)) is not None}
    return MemorySource(made.rig, made.messages(), labels, drive_id="drive")


def degraded(drive: MemorySource, degradation: Degradation, seed: int = 0) -> DegradedSource:
    return DegradedSource(drive, degradation, np.random.default_rng(seed))


def stamps(messages: list[AnyMessage]) -> list[tuple[str, int, int]]:
    return [(message.sensor, message.capture_ns, message.arrival_ns) for message in messages]


def test_nothing_wrong_leaves_the_drive_as_it_is(drive: MemorySource) -> None:
    same = degraded(drive, Degradation(name="none"))
    assert isinstance(same, Source)
    assert list(same.messages()) == list(drive.messages())
    assert same.rig.calibration_hash() == drive.rig.calibration_hash()
    assert same.label_times_ns == drive.label_times_ns
    assert same.labels(drive.label_times_ns[0]) is drive.labels(drive.label_times_ns[0])


@pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
def test_only_the_chosen_modalities_are_heard(drive: MemorySource, subset: frozenset[Modality]) -> None:
    heard = list(degraded(drive, Degradation(name="some", modalities=subset)).messages())
    for modality, kind in KIND.items():
        assert any(isinstance(message, kind) for message in heard) == (modality in subset)
    assert sum(message.sensor == "ego" for message in heard) == sum(m.sensor == "ego" for m in drive.messages())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_asked_share_of_frames_is_dropped(drive: MemorySource, share: float) -> None:
    before = Counter(m.sensor in drive.rig for m in drive.messages())
    after = Counter(
        m.sensor in drive.rig for m in degraded(drive, Degradation(name="drop", drop_probability=share)).messages()
    )
    assert after[False] == before[False]  # poses and route are no sensors
    assert after[True] / before[True] == pytest.approx(1 - share, abs=4 * np.sqrt(share * (1 - share) / before[True]))


def test_a_seed_decides_what_is_lost(drive: MemorySource) -> None:
    half = Degradation(name="drop", drop_probability=0.5)
    one = degraded(drive, half, seed=5)
    first, second = stamps(list(one.messages())), stamps(list(one.messages()))
    assert first == second == stamps(list(degraded(drive, half, seed=5).messages()))
    assert first != stamps(list(degraded(drive, half, seed=6).messages()))


def test_late_sensors_arrive_late_and_in_order(drive: MemorySource) -> None:
    late = Degradation(name="late", stale=frozenset({Modality.LIDAR}), delay_ns=130 * MS)
    messages = list(degraded(drive, late).messages())
    assert len(messages) == len(list(drive.messages()))
    assert all(first.arrival_ns <= second.arrival_ns for first, second in pairwise(messages))
    due = {(m.sensor, m.capture_ns): m.arrival_ns for m in drive.messages()}
    for message in messages:
        extra = 130 * MS if isinstance(message, LidarSweep) else 0
        assert message.arrival_ns == due[message.sensor, message.capture_ns] + extra


def test_frozen_sensors_show_the_past_under_a_fresh_stamp(drive: MemorySource) -> None:
    frozen = Degradation(name="frozen", stale=frozenset({Modality.LIDAR}), frozen_ns=300 * MS)
    before = [m for m in drive.messages() if isinstance(m, LidarSweep)]
    after = [m for m in degraded(drive, frozen).messages() if isinstance(m, LidarSweep)]
    assert [m.capture_ns for m in after] == [m.capture_ns for m in before]
    start_ns = before[0].capture_ns
    for new in after:
        shown = next(old for old in before if old.points_m is new.points_m)
        age_ns = new.capture_ns - shown.capture_ns
        if new.capture_ns - start_ns < 300 * MS:
            assert shown is before[0]
        else:
            period_ns = drive.rig["LIDAR_TOP"].period_ns
            assert 300 * MS <= age_ns < 300 * MS + period_ns


def test_only_stale_modalities_freeze(drive: MemorySource) -> None:
    frozen = Degradation(name="frozen", stale=frozenset({Modality.CAMERA}), frozen_ns=300 * MS)
    others = [m for m in degraded(drive, frozen).messages() if not isinstance(m, CameraFrame)]
    assert others == [m for m in drive.messages() if not isinstance(m, CameraFrame)]


def test_mounts_are_turned_by_the_angle_and_stay_in_place(drive: MemorySource) -> None:
    angle = float(np.radians(3))
    rig = degraded(drive, Degradation(name="knocked", extrinsic_rad=angle)).rig
    axes = []
    for sensor in drive.rig.sensors:
        moved = invert(sensor.ego_SE3_sensor) @ rig[sensor.name].ego_SE3_sensor
        turn = rotation_log(moved[:3, :3])
        is_knocked = sensor.modality is not Modality.RADAR
        assert np.linalg.norm(turn) == pytest.approx(angle if is_knocked else 0.0, abs=1e-9)
        assert np.allclose(moved[:3, 3], 0.0)
        axes += [turn / angle] if is_knocked else []
    assert np.linalg.matrix_rank(np.stack(axes)) == 3  # each about an axis of its own
    assert rig.calibration_hash() != drive.rig.calibration_hash()


def test_a_lost_camera_is_never_heard(drive: MemorySource) -> None:
    lost = one_camera(drive.rig, np.random.default_rng(3))
    (name,) = lost
    heard = {m.sensor for m in degraded(drive, Degradation(name="lost", lost=lost)).messages()}
    assert heard == {m.sensor for m in drive.messages()} - {name}
    assert drive.rig[name].modality is Modality.CAMERA


def test_an_unknown_sensor_cannot_be_lost(drive: MemorySource) -> None:
    with pytest.raises(ValueError, match="CAM_ROOF is not in the rig"):
        degraded(drive, Degradation(name="lost", lost=frozenset({"CAM_ROOF"})))


def test_probabilities_are_checked() -> None:
    with pytest.raises(ValueError, match=r"drop_probability must be in 0..1"):
        Degradation(name="drop", drop_probability=1.5)


def test_the_plan_gives_one_disturbance_a_figure(drive: MemorySource) -> None:
    plan = RobustnessPlan(drop_probability=(0.1, 0.9), extrinsic_deg=(2.0,), frozen_s=(0.5,), delay_s=())
    found = list(disturbances(plan, drive.rig))
    assert [kind for kind, _, _ in found] == [
        "dropped frames",
        "dropped frames",
        "mounts",
        "camera frozen",
        "lidar frozen",
        "radar frozen",
        "lost camera",
    ]
    assert found[2][2].extrinsic_rad == pytest.approx(np.radians(2.0))
    assert len({degradation.name for _, _, degradation in found}) == len(found)
