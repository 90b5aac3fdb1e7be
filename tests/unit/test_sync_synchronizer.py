"""The synchronizer, case by case: who opens, what is picked, when it closes, what is dropped and why."""

from collections.abc import Iterable

import numpy as np
import pytest

from perception.config.schema import SensorSync, SyncConfig
from perception.core.bundle import CloseReason, DropCause, SensorBundle, Stamp
from perception.core.cameras import CameraModel
from perception.core.errors import ConfigError
from perception.core.rig import Modality, Sensor, SensorRig
from perception.sync.synchronizer import Synchronizer

MS = 1_000_000
T0 = 1_700_000_000_000_000_000


def sensor(name: str, modality: Modality, rate: float, offset_ms: float = 0.0) -> Sensor:
    return Sensor(
        name=name,
        modality=modality,
        ego_SE3_sensor=np.eye(4),
        frequency_hz=rate,
        offset_ns=round(offset_ms * MS),
        camera=CameraModel(width_px=8, height_px=8, intrinsic=np.eye(3)) if modality is Modality.CAMERA else None,
    )


LIDAR = sensor("lidar", Modality.LIDAR, 10.0)
CAMERA = sensor("camera", Modality.CAMERA, 10.0)
RADAR = sensor("radar", Modality.RADAR, 10.0)
RIG = SensorRig(sensors=(CAMERA, LIDAR, RADAR))


class Drive:
    """Pushes stamps given in milliseconds and keeps what comes out."""

    def __init__(
        self, rig: SensorRig = RIG, config: SyncConfig | None = None, keyframes_ms: Iterable[int] = ()
    ) -> None:
        times = frozenset(T0 + time * MS for time in keyframes_ms)
        self.synchronizer = Synchronizer(rig, config or SyncConfig(), reference_times=times or None)
        self.bundles: list[SensorBundle] = []
        self.count = 0

    def push(self, name: str, capture_ms: float, arrival_ms: float | None = None) -> list[SensorBundle]:
        arrival = capture_ms + 10 if arrival_ms is None else arrival_ms
        stamp = Stamp(
            arrival_ns=T0 + round(arrival * MS), index=self.count, sensor=name, capture_ns=T0 + round(capture_ms * MS)
        )
        self.count += 1
        closed = self.synchronizer.push(stamp)
        self.bundles += closed
        return closed

    def advance(self, now_ms: float) -> list[SensorBundle]:
        closed = self.synchronizer.advance(T0 + round(now_ms * MS))
        self.bundles += closed
        return closed

    def run(self, start_ms: int, end_ms: int, names: Iterable[str] = ("lidar", "camera", "radar")) -> None:
        for time in range(start_ms, end_ms, 100):
            for name in names:
                self.push(name, time)

    def references_ms(self, opener: str | None = None) -> list[float]:
        return [
            (bundle.reference_ns - T0) / MS
            for bundle in self.bundles
            if opener is None or bundle.reference_sensor == opener
        ]

    def dropped(self) -> dict[DropCause, int]:
        return dict(self.synchronizer.take_dropped())


def hits_ms(bundle: SensorBundle) -> dict[str, float]:
    return {name: (stamp.capture_ns - T0) / MS for name, stamp in bundle.hits.items()}


def test_a_bundle_closes_as_soon_as_all_are_there() -> None:
    drive = Drive()
    assert drive.push("lidar", 0) == []
    assert drive.push("camera", 2) == []
    (bundle,) = drive.push("radar", 3)
    assert hits_ms(bundle) == {"camera": 2, "lidar": 0, "radar": 3}
    assert bundle.reason is CloseReason.COMPLETE
    assert bundle.misses == ()
    assert bundle.age_ns("camera") == -2 * MS
    assert bundle.slack_ns == bundle.deadline_ns - bundle.closed_ns > 0


def test_a_message_from_before_the_reference_does_not_make_it_wait() -> None:
    drive = Drive()
    drive.push("camera", -20)
    drive.push("radar", 1, arrival_ms=5)
    (bundle,) = drive.push("lidar", 0)
    assert hits_ms(bundle) == {"camera": -20, "lidar": 0, "radar": 1}


def test_it_waits_while_a_nearer_message_may_come() -> None:
    drive = Drive()
    drive.push("camera", -48)
    drive.push("radar", 0, arrival_ms=5)
    assert drive.push("lidar", 0) == []
    (bundle,) = drive.push("camera", 45)
    assert hits_ms(bundle)["camera"] == 45


def test_the_deadline_closes_what_lacks_a_sensor() -> None:
    drive = Drive()
    drive.push("lidar", 0)
    drive.push("camera", 0)
    assert drive.advance(159) == []
    (bundle,) = drive.advance(400)
    assert bundle.misses == ("radar",)
    assert bundle.reason is CloseReason.DEADLINE
    assert bundle.closed_ns == bundle.deadline_ns == T0 + 160 * MS
    assert bundle.slack_ns == 0


def test_offsets_are_signed_and_tolerances_each_sensors_own() -> None:
    settings = {"camera": SensorSync(offset_ms=-50, tolerance_ms=5), "radar": SensorSync(tolerance_ms=0)}
    drive = Drive(config=SyncConfig(sensors=settings))
    drive.push("camera", -48)
    drive.push("radar", 1)
    drive.push("lidar", 0)
    drive.push("camera", 56)
    drive.push("radar", 100)
    drive.push("lidar", 100)
    assert [hits_ms(bundle) for bundle in drive.bundles] == [
        {"camera": -48, "lidar": 0},
        {"lidar": 100, "radar": 100},
    ]


def test_offsets_of_the_rig_count_from_the_first_choice() -> None:
    rig = SensorRig(sensors=(sensor("camera", Modality.CAMERA, 10, -30), sensor("lidar", Modality.LIDAR, 10, 5)))
    drive = Drive(rig, SyncConfig(reference_order=("camera", "lidar"), tolerance_ms=4))
    drive.push("camera", 0)
    (bundle,) = drive.push("lidar", 36)
    assert bundle.reference_ns == T0
    assert hits_ms(bundle) == {"camera": 0, "lidar": 36}


def test_one_message_may_serve_two_bundles() -> None:
    rig = SensorRig(sensors=(sensor("lidar", Modality.LIDAR, 20), sensor("camera", Modality.CAMERA, 10)))
    drive = Drive(rig)
    for time in range(0, 400, 50):
        drive.push("lidar", time)
        if time % 100 == 0:
            drive.push("camera", time + 25)
    served = [hits_ms(bundle)["camera"] for bundle in drive.bundles]
    assert served[:4] == [25, 25, 125, 125]
    drive.synchronizer.flush()
    assert drive.dropped() == {}


def test_a_sensor_that_was_never_there_is_soon_not_waited_for() -> None:
    drive = Drive()
    drive.run(0, 2000, ("lidar", "camera"))
    waits = [(bundle.closed_ns - bundle.opened_ns) / MS for bundle in drive.bundles]
    assert waits[0] == 150
    assert waits[6:] == [0] * len(waits[6:])
    assert all(bundle.misses == ("radar",) for bundle in drive.bundles)
    assert drive.synchronizer.is_silent("radar")
    drive.run(2000, 2500)
    assert drive.bundles[-1].misses == ()
    assert not drive.synchronizer.is_silent("radar")


def test_the_next_sensor_takes_over_and_the_first_choice_takes_back() -> None:
    drive = Drive()
    drive.run(0, 1000)
    drive.run(1000, 2000, ("camera", "radar"))
    drive.run(2000, 3000)
    assert drive.references_ms("lidar") == [*range(0, 1000, 100), *range(2000, 3000, 100)]
    assert drive.references_ms("camera") == [*range(1400, 2000, 100)]
    assert drive.references_ms() == sorted(set(drive.references_ms()))


def test_a_stand_in_keeps_the_reference_times_where_the_first_choice_had_them() -> None:
    drive = Drive(config=SyncConfig(sensors={"camera": SensorSync(offset_ms=-40)}))
    for time in range(0, 2000, 100):
        drive.push("camera", time - 40)
        drive.push("radar", time)
        if time < 1000:
            drive.push("lidar", time)
    assert drive.references_ms("camera") == [*range(1500, 2000, 100)]
    assert all("radar" in bundle.hits for bundle in drive.bundles[-3:])


def test_a_first_choice_that_was_never_there_is_replaced() -> None:
    drive = Drive()
    drive.run(0, 1500, ("camera", "radar"))
    assert drive.references_ms("camera") == [*range(500, 1500, 100)]


def test_a_timer_stands_in_when_nobody_speaks() -> None:
    drive = Drive()
    drive.run(0, 1000)
    drive.advance(3000)
    ticks = drive.references_ms("timer")
    assert ticks == [*range(1400, 3000, 100)]
    assert all(bundle.hits == {} for bundle in drive.bundles if bundle.reference_sensor == "timer")
    drive.run(3050, 3500)
    assert drive.references_ms("lidar")[-5:] == [3050, 3150, 3250, 3350, 3450]


def test_a_timer_also_runs_if_nothing_ever_spoke_but_not_for_ever() -> None:
    drive = Drive()
    drive.advance(0)
    assert drive.advance(499) == []
    assert len(drive.advance(10_000)) == 96
    assert drive.advance(10_000_000) == []


def test_keyframes_alone_open_bundles() -> None:
    drive = Drive(config=SyncConfig(reference="keyframes"), keyframes_ms=(0, 500, 1000))
    drive.run(0, 1200)
    assert drive.references_ms() == [0, 500, 1000]
    assert all(bundle.misses == () for bundle in drive.bundles)
    dropped = drive.dropped()
    assert set(dropped) == {DropCause.UNMATCHED}


def test_a_lost_or_silent_reference_costs_no_keyframe() -> None:
    drive = Drive(config=SyncConfig(reference="keyframes"), keyframes_ms=range(0, 3000, 500))
    for time in range(0, 3000, 100):
        if time < 1500 and time != 500:
            drive.push("lidar", time)
        drive.push("camera", time)
        drive.push("radar", time)
    assert drive.references_ms() == [*range(0, 3000, 500)]
    misses = [bundle.misses for bundle in drive.bundles]
    assert misses == [(), ("lidar",), (), ("lidar",), ("lidar",), ("lidar",)]


def test_a_frozen_sensor_is_dead() -> None:
    drive = Drive()
    for time in range(0, 2000, 100):
        drive.push("lidar", 0, arrival_ms=time + 10)
        drive.push("camera", time)
        drive.push("radar", time)
    assert drive.references_ms("camera") == [*range(500, 2000, 100)]
    assert drive.dropped()[DropCause.DUPLICATE] == 19


def test_a_constantly_late_sensor_is_neither_waited_for_nor_mixed_in() -> None:
    drive = Drive()
    events = [(time + 10, name, time) for time in range(0, 3000, 100) for name in ("lidar", "radar")]
    events += [(time + 1000, "camera", time) for time in range(0, 2000, 100)]
    for arrival, name, capture in sorted(events):
        drive.push(name, capture, arrival)
    assert all(bundle.misses == ("camera",) for bundle in drive.bundles)
    assert drive.bundles[-1].closed_ns == drive.bundles[-1].opened_ns
    assert drive.dropped()[DropCause.LATE] == 20


def test_a_swapped_pair_of_sweeps_still_comes_out_in_order() -> None:
    drive = Drive()
    for name, capture, arrival in [("lidar", 100, 110), ("lidar", 0, 111), ("camera", 0, 112), ("radar", 0, 113)]:
        drive.push(name, capture, arrival)
    drive.push("camera", 100, 114)
    drive.push("radar", 100, 115)
    assert drive.references_ms() == [0, 100]
    assert [bundle.misses for bundle in drive.bundles] == [(), ()]


def test_a_sweep_that_comes_after_its_turn_is_late() -> None:
    drive = Drive()
    drive.run(0, 300)
    drive.push("lidar", 150, arrival_ms=320)
    drive.run(300, 600)
    assert drive.references_ms() == [0, 100, 200, 300, 400, 500]
    assert drive.dropped() == {DropCause.LATE: 1}


def test_buffers_are_bounded() -> None:
    drive = Drive(config=SyncConfig(buffer_length=2))
    for time in range(0, 100, 10):
        drive.push("camera", time)
    assert drive.dropped() == {DropCause.OVERFLOW: 8}
    assert drive.synchronizer.take_released() == [*range(8)]


def test_open_bundles_are_bounded() -> None:
    drive = Drive(config=SyncConfig(max_open=2, deadline_ms=10_000, silence_ms=5_000))
    drive.run(0, 500, ("lidar",))
    assert drive.references_ms() == [0, 100, 200]
    assert {bundle.reason for bundle in drive.bundles} == {CloseReason.DEADLINE}


def test_strangers_are_counted() -> None:
    drive = Drive()
    assert drive.push("sonar", 0) == []
    assert drive.dropped() == {DropCause.UNKNOWN_SENSOR: 1}
    assert not drive.synchronizer.is_wanted("sonar", T0)


def test_frames_between_references_are_not_wanted() -> None:
    rig = SensorRig(sensors=(sensor("lidar", Modality.LIDAR, 10), sensor("camera", Modality.CAMERA, 100)))
    drive = Drive(rig)
    assert drive.synchronizer.is_wanted("camera", T0)
    for time in range(0, 500, 10):
        if time % 100 == 0:
            drive.push("lidar", time, time + 1)
        drive.push("camera", time, time + 2)
    wanted = [time for time in range(500, 700, 10) if drive.synchronizer.is_wanted("camera", T0 + time * MS)]
    assert wanted == [500, 600]
    keyframes = Drive(rig, SyncConfig(reference="keyframes"), keyframes_ms=(0, 500))
    keyframes.push("lidar", 0)
    assert keyframes.synchronizer.is_wanted("camera", T0 + 500 * MS)
    assert not keyframes.synchronizer.is_wanted("camera", T0 + 300 * MS)


def test_wrong_configuration_names_the_field_and_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"reference_order names 'top'.*camera, lidar, radar"):
        Synchronizer(RIG, SyncConfig(reference_order=("top",)))
    with pytest.raises(ConfigError, match=r"sync\.sensors names 'top'"):
        Synchronizer(RIG, SyncConfig(sensors={"top": SensorSync()}))
    with pytest.raises(ConfigError, match="sweeps"):
        Synchronizer(RIG, SyncConfig(reference="keyframes"))
