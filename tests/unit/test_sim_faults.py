"""Faults: each does what it says to whom it names and when, seeded, and refuses what cannot be."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from perception.core.cameras import CameraModel
from perception.core.errors import ConfigError
from perception.core.geometry import rotation_exp, se3
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, SweepMotion, Unreadable
from perception.core.rig import Modality, Sensor, SensorRig
from sim.faults import FaultInjector, FaultPlan

SECOND = 1_000_000_000
START = 100 * SECOND
STEP = SECOND // 10
MODEL = CameraModel(
    width_px=160, height_px=80, intrinsic=np.array([[100.0, 0, 80], [0, 100.0, 40], [0, 0, 1]], dtype=np.float64)
)
RIG = SensorRig(
    sensors=(
        Sensor(name="cam", modality=Modality.CAMERA, ego_SE3_sensor=se3(), frequency_hz=10, camera=MODEL),
        Sensor(name="lidar", modality=Modality.LIDAR, ego_SE3_sensor=se3(), frequency_hz=10),
        Sensor(name="radar", modality=Modality.RADAR, ego_SE3_sensor=se3(), frequency_hz=10),
    )
)


def frame(i: int) -> CameraFrame:
    image = np.full((80, 160, 3), 60 + i % 40, dtype=np.uint8)
    cv2.circle(image, (80, 40), 5, (255, 255, 255), -1)
    data = bytes(cv2.imencode(".jpg", image)[1])
    return CameraFrame(sensor="cam", capture_ns=START + i * STEP, arrival_ns=START + i * STEP + 30_000_000, data=data)


def sweep(i: int) -> LidarSweep:
    angle = np.linspace(-np.pi, np.pi, 360, endpoint=False, dtype=np.float32)
    points = np.stack([10 * np.cos(angle), 10 * np.sin(angle), np.full(360, 0.1 * i, dtype=np.float32)], axis=1)
    return LidarSweep(
        sensor="lidar",
        capture_ns=START + i * STEP,
        arrival_ns=START + i * STEP + 10_000_000,
        points_m=points.astype(np.float32),
        intensity=np.ones(360, dtype=np.float32),
        motion=SweepMotion.RAW,
        point_offset_ns=np.zeros(360, dtype=np.int32),
        ring=np.zeros(360, dtype=np.uint8),
    )


def scan(i: int) -> RadarScan:
    return RadarScan(
        sensor="radar",
        capture_ns=START + i * STEP,
        arrival_ns=START + i * STEP + 20_000_000,
        points_m=np.array([[20.0, 0.0, 0.0], [0.0, 20.0, 0.0]], dtype=np.float32),
        rcs_dbsm=np.zeros(2, dtype=np.float32),
        radial_mps=np.zeros(2, dtype=np.float32),
        compensated_mps=None,
        is_valid=np.ones(2, dtype=bool),
    )


def ego(i: int) -> EgoState:
    return EgoState(capture_ns=START + i * STEP, arrival_ns=START + i * STEP + 2_000_000, world_SE3_ego=se3())


def stream(n: int = 30) -> list[AnyMessage]:
    messages: list[AnyMessage] = [make(i) for i in range(n) for make in (ego, sweep, scan, frame)]
    return sorted(messages, key=lambda message: message.arrival_ns)


def inject(*faults: dict[str, object], seed: int = 0, messages: Sequence[AnyMessage] | None = None) -> list[AnyMessage]:
    plan = FaultPlan.model_validate({"faults": faults})
    injector = FaultInjector(plan, RIG, start_ns=START, seed=seed)
    return list(injector.apply(stream() if messages is None else messages))


def of(messages: Sequence[AnyMessage], sensor: str) -> list[AnyMessage]:
    return [message for message in messages if message.sensor == sensor]


def test_no_faults_change_nothing() -> None:
    before = stream()
    assert all(a is b for a, b in zip(before, inject(messages=before), strict=True))


def test_drop_strikes_its_sensor_in_its_window_only() -> None:
    after = inject({"type": "drop", "sensors": ["cam"], "start_s": 1.0, "duration_s": 0.5})
    assert [(m.capture_ns - START) // STEP for m in of(after, "cam")] == [*range(10), *range(15, 30)]
    assert len(of(after, "lidar")) == len(of(after, "ego")) == 30


def test_probability_is_a_share_and_seeded() -> None:
    many = stream(400)
    fault: dict[str, object] = {"type": "drop", "sensors": ["ego"], "probability": 0.3}
    first, again, other = (inject(fault, seed=seed, messages=many) for seed in (1, 1, 2))
    assert 80 < 400 - len(of(first, "ego")) < 160
    assert [m.capture_ns for m in first] == [m.capture_ns for m in again] != [m.capture_ns for m in other]


def test_delay_keeps_the_stream_in_arrival_order() -> None:
    after = inject({"type": "delay", "sensors": ["lidar"], "delay_ms": 250, "jitter_ms": 20})
    arrivals = [m.arrival_ns for m in after]
    assert arrivals == sorted(arrivals)
    assert len(after) == 120
    late = np.array([m.arrival_ns - m.capture_ns for m in of(after, "lidar")]) / 1e6
    assert late.min() >= 260
    assert 5 < late.mean() - 260 < 50


def test_delayed_messages_wait_for_nothing_but_their_delay() -> None:
    """A closed loop must get each message as soon as the stream reaches its arrival."""
    plan = FaultPlan.model_validate({"faults": [{"type": "delay", "sensors": ["lidar"], "delay_ms": 50}]})
    taken = 0

    def counted() -> list[AnyMessage]:
        return stream(5)

    def watched() -> object:
        nonlocal taken
        for message in counted():
            taken += 1
            yield message

    result = FaultInjector(plan, RIG, start_ns=START, seed=0).apply(watched())  # type: ignore[arg-type]
    first = next(result)
    assert first.sensor == "ego"
    assert taken <= 2


def test_freeze_repeats_the_payload_with_new_stamps() -> None:
    after = of(inject({"type": "freeze", "sensors": ["cam"], "start_s": 0.5, "duration_s": 1.0}), "cam")
    data = [m.data for m in after if isinstance(m, CameraFrame)]
    assert len({*data[5:15]}) == 1
    assert len({*data}) == 21
    assert [m.capture_ns for m in after] == [START + i * STEP for i in range(30)]
    assert data[15] == frame(15).data, "it sees again afterwards"


def test_duplicate_comes_later_with_the_same_capture() -> None:
    after = of(inject({"type": "duplicate", "sensors": ["radar"], "after_ms": 7}), "radar")
    assert len(after) == 60
    assert [m.capture_ns for m in after[::2]] == [m.capture_ns for m in after[1::2]]
    assert after[1].arrival_ns - after[0].arrival_ns == 7_000_000


def test_reorder_lets_messages_overtake() -> None:
    after = of(inject({"type": "reorder", "sensors": ["lidar"], "within_ms": 400}), "lidar")
    captures = [m.capture_ns for m in after]
    assert captures != sorted(captures)
    assert sorted(captures) == [START + i * STEP for i in range(30)]


def test_clock_offset_and_drift_shift_captures_not_arrivals() -> None:
    after = inject({"type": "clock", "sensors": ["lidar"], "offset_ms": -40, "drift_ppm": 1000, "start_s": 1.0})
    for i, message in enumerate(of(after, "lidar")):
        since = (i - 10) * STEP
        shift = 0 if i < 10 else -40_000_000 + round(1e-3 * since)
        assert message.capture_ns == START + i * STEP + shift
        assert message.arrival_ns == START + i * STEP + 10_000_000


def test_blackout_leaves_empty_messages() -> None:
    after = inject({"type": "blackout", "sensors": ["cam", "lidar", "radar"]})
    for message in after:
        if isinstance(message, CameraFrame):
            image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            assert image.shape == (80, 160, 3)
            assert image.max() == 0
        elif isinstance(message, LidarSweep):
            assert message.points_m.shape == (0, 3)
            assert message.ring is not None
            assert len(message.ring) == 0
        elif isinstance(message, RadarScan):
            assert len(message.points_m) == len(message.is_valid) == 0


def test_dirt_darkens_its_region_only() -> None:
    after = inject({"type": "blockage", "sensors": ["cam"], "region": [0.0, 0.0, 0.5, 1.0]})
    first = of(after, "cam")[0]
    assert isinstance(first, CameraFrame)
    image = cv2.imdecode(np.frombuffer(first.data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image[30:50, 20:60].mean() < 55
    assert abs(image[30:50, 100:150].mean() - 60) < 2


def test_blocked_sector_loses_its_points_even_across_the_rear() -> None:
    after = of(inject({"type": "blockage", "sensors": ["lidar"], "sector_deg": [170, -170]}), "lidar")[0]
    assert isinstance(after, LidarSweep)
    azimuth = np.degrees(np.arctan2(after.points_m[:, 1], after.points_m[:, 0]))
    assert len(azimuth) in (339, 340, 341)
    assert np.abs(azimuth).max() < 170.5
    assert after.point_offset_ns is not None
    assert len(after.point_offset_ns) == len(azimuth)


def test_miscalibration_moves_points_and_turns_images() -> None:
    after = inject(
        {"type": "miscalibration", "sensors": ["lidar"], "rotation_deg": [0, 0, 10], "translation_m": [1, 0, 0]},
        {"type": "miscalibration", "sensors": ["cam"], "rotation_deg": [0, 0, 5]},
    )
    lidar, camera = of(after, "lidar")[0], of(after, "cam")[0]
    assert isinstance(lidar, LidarSweep)
    assert isinstance(camera, CameraFrame)
    turned = sweep(0).points_m @ rotation_exp(np.radians([0, 0, 10.0])).T + [1, 0, 0]
    np.testing.assert_allclose(lidar.points_m, turned, atol=1e-5)
    image = cv2.imdecode(np.frombuffer(camera.data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    v, u = np.nonzero(image > 180)
    # A camera that looks 5 degrees further left sees what was ahead to the right of its middle.
    assert u.mean() == pytest.approx(80 + 100 * np.tan(np.radians(5)), abs=1)
    assert v.mean() == pytest.approx(40, abs=1)


def test_truncated_payloads_cannot_be_read() -> None:
    after = inject({"type": "truncate", "sensors": ["cam", "lidar"], "keep_share": 0.25})
    camera, lidar = of(after, "cam")[0], of(after, "lidar")[0]
    assert isinstance(camera, CameraFrame)
    assert len(camera.data) == len(frame(0).data) // 4
    assert isinstance(lidar, Unreadable)
    assert "90 of 360" in lidar.error


def grey(message: AnyMessage) -> NDArray[np.float64]:
    assert isinstance(message, CameraFrame)
    image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return image.astype(np.float64)


def test_overexposure_makes_bright_things_white() -> None:
    after = of(inject({"type": "overexposure", "sensors": ["cam"], "gain": 20}), "cam")[0]
    assert (grey(after) > 250).mean() > 0.99


def test_blur_keeps_the_light_and_takes_the_edges() -> None:
    after = of(inject({"type": "blur", "sensors": ["cam"], "sigma_share": 0.02}), "cam")[0]
    sharp, soft = grey(frame(0)), grey(after)
    assert abs(sharp.mean() - soft.mean()) < 2
    assert np.abs(np.diff(soft)).max() < 0.6 * np.abs(np.diff(sharp)).max()


def test_thinning_keeps_a_share_of_each_sweep_and_its_columns_together() -> None:
    sweeps = of(inject({"type": "thin", "sensors": ["lidar"], "keep_share": 0.25}), "lidar")
    counts = []
    for after in sweeps:
        assert isinstance(after, LidarSweep)
        assert len(after.intensity) == len(after.points_m)
        counts.append(len(after.points_m))
    assert 75 < np.mean(counts) < 105
    assert len(set(counts)) > 1


def test_faults_combine_in_the_order_of_the_plan() -> None:
    after = inject(
        {"type": "duplicate", "sensors": ["cam"], "after_ms": 5},
        {"type": "clock", "sensors": ["cam"], "offset_ms": 15},
        {"type": "truncate", "sensors": ["lidar"]},
        {"type": "blackout", "sensors": ["lidar"]},
    )
    assert {m.capture_ns - START for m in of(after, "cam")} == {15_000_000 + i * STEP for i in range(30)}
    assert len(of(after, "cam")) == 60
    assert all(isinstance(m, Unreadable) for m in of(after, "lidar"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"type": "drop", "sensors": ["cam2"]}, r"faults\.0\.sensors: no sensor 'cam2'; known: cam, lidar, radar, ego"),
        ({"type": "blackout", "sensors": ["ego"]}, "ego has no payload"),
        ({"type": "blockage", "sensors": ["cam"], "sector_deg": [0, 10]}, "cam takes region"),
        ({"type": "blockage", "sensors": ["lidar"], "region": [0, 0, 1, 1]}, "lidar takes sector_deg"),
        ({"type": "blur", "sensors": ["lidar"]}, "lidar is no camera; blur is a fault of images"),
        ({"type": "overexposure", "sensors": ["radar"]}, "radar is no camera"),
        ({"type": "thin", "sensors": ["cam"]}, "cam has no points"),
        ({"type": "thin", "sensors": ["route"]}, "route has no payload"),
        ({"type": "miscalibration", "sensors": ["cam"], "translation_m": [1, 0, 0]}, "can only be turned"),
    ],
)
def test_faults_that_do_not_fit_the_rig_are_refused(fault: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inject(fault)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"type": "explode", "sensors": ["cam"]}, "drop.*delay.*freeze"),
        ({"type": "drop", "sensors": []}, "sensors"),
        ({"type": "drop", "sensors": ["cam"], "probability": 2}, "probability"),
        ({"type": "drop", "sensors": ["cam"], "probabilty": 1}, "probabilty"),
        ({"type": "blockage", "sensors": ["cam"]}, "either region"),
        ({"type": "blockage", "sensors": ["cam"], "region": [0.5, 0, 0.2, 1]}, "left < right"),
    ],
)
def test_wrong_fields_are_named(fault: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        TypeAdapter(FaultPlan).validate_python({"faults": [fault]})
