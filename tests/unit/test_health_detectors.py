"""Each detector on arrays made for it: what it must find, and what it must leave alone."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.faults import FaultKind, Severity
from perception.core.messages import CameraFrame, EgoState, LidarSweep, RadarScan, SweepMotion
from perception.core.rig import Modality
from perception.pipeline.health.calibration_rounds import CalibrationRounds
from perception.pipeline.health.camera import (
    BLOCKED_PATCHES,
    CameraChecks,
    Look,
    PatchWatch,
    check_light,
    decode_small,
    sharpness,
)
from perception.pipeline.health.evidence import RULES, Evidence, Latch
from perception.pipeline.health.lidar import LidarChecks, air_share
from perception.pipeline.health.radar import RadarChecks
from perception.pipeline.health.timing import TimingWatch
from perception.sources.synthetic_rig import synthetic_rig

F32 = NDArray[np.float32]
PERIOD_NS = 100_000_000


def scene(rng: np.random.Generator, shift: int = 0) -> F32:
    """Blocks of random grey with noise: (128, 352), as if the camera had moved `shift` pixels."""
    blocks = np.random.default_rng(5).uniform(20, 220, (16, 90)).astype(np.float32)
    image = cv2.resize(blocks, (720, 128), interpolation=cv2.INTER_NEAREST)[:, shift : shift + 352]
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.float32)


def jpeg(image: F32) -> bytes:
    return bytes(cv2.imencode(".jpg", image.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def frame(data: bytes, index: int = 0) -> CameraFrame:
    return CameraFrame(sensor="cam", capture_ns=index * PERIOD_NS, arrival_ns=index * PERIOD_NS + 1, data=data)


def bad(evidence: object) -> set[FaultKind]:
    return {one.kind for one in evidence if one.is_bad}  # type: ignore[attr-defined]


def test_latch_rises_after_enough_bad_looks_and_falls_after_enough_good_ones() -> None:
    rule, latch = RULES[FaultKind.BLURRED], Latch(FaultKind.BLURRED)
    for n in range(rule.raise_after):
        assert latch.fault is None
        latch.update(Evidence(FaultKind.BLURRED, is_bad=True, detail="soft"), 100 + n)
    fault = latch.fault
    assert fault is not None
    assert (fault.kind, fault.since_ns, fault.severity, fault.detail) == ("blurred", 100, Severity.WARNING, "soft")
    for _ in range(rule.clear_after):
        assert latch.fault == fault
        latch.update(Evidence(FaultKind.BLURRED, is_bad=False), 200)
    assert latch.fault is None


def test_looks_that_are_not_in_a_row_raise_nothing() -> None:
    latch = Latch(FaultKind.BLURRED)
    for n in range(50):
        latch.update(Evidence(FaultKind.BLURRED, is_bad=n % 2 == 0), n)
        assert latch.fault is None


def test_a_sharp_image_is_neither_dark_nor_white_nor_blurred(rng: np.random.Generator) -> None:
    assert bad(check_light(Look.at(scene(rng)))) == set()


@pytest.mark.parametrize("gain", [0.15, 0.4, 1.0])
def test_blur_is_found_whatever_the_contrast(gain: float, rng: np.random.Generator) -> None:
    image = scene(rng) * np.float32(gain)
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), 2.5), np.float32)
    assert sharpness(Look.at(image)) > 2 * sharpness(Look.at(blurred))
    assert bad(check_light(Look.at(blurred))) == {FaultKind.BLURRED}


def test_black_and_white_images_are_not_called_blurred(rng: np.random.Generator) -> None:
    assert bad(check_light(Look.at(rng.uniform(0, 6, (64, 64)).astype(np.float32)))) == {FaultKind.DARK}
    assert bad(check_light(Look.at(np.full((64, 64), 255, np.float32)))) == {FaultKind.SATURATED}


def test_a_night_image_with_one_lamp_is_not_dark(rng: np.random.Generator) -> None:
    image = rng.uniform(0, 6, (64, 64)).astype(np.float32)
    image[:8, :8] = 200
    assert FaultKind.DARK not in bad(check_light(Look.at(image)))


def test_repeated_bytes_are_frozen_and_noise_is_not(rng: np.random.Generator) -> None:
    checks = CameraChecks(stride=2)
    first = jpeg(scene(rng))
    assert FaultKind.FROZEN not in bad(checks.check(frame(first), 0.0))
    assert FaultKind.FROZEN in bad(checks.check(frame(first), 0.0))
    assert FaultKind.FROZEN not in bad(checks.check(frame(jpeg(scene(rng))), 0.0))


def test_a_black_image_that_repeats_is_dark_and_not_frozen() -> None:
    checks, black = CameraChecks(stride=2), jpeg(np.zeros((128, 352), np.float32))
    found = [bad(checks.check(frame(black), 0.0)) for _ in range(4)]
    assert set().union(*found) == {FaultKind.DARK}


def test_cut_off_images_are_unreadable(rng: np.random.Generator) -> None:
    data = jpeg(scene(rng))
    assert bad(CameraChecks(stride=1).check(frame(data[: len(data) // 2]), 0.0)) == {FaultKind.UNREADABLE}
    assert bad(CameraChecks(stride=1).check(frame(b""), 0.0)) == {FaultKind.UNREADABLE}


def test_large_images_are_decoded_small(rng: np.random.Generator) -> None:
    large = np.asarray(cv2.resize(scene(rng), (1600, 900)), np.float32)
    assert decode_small(jpeg(large)).shape == (113, 200)
    assert decode_small(jpeg(scene(rng))).shape == (64, 176)


def test_a_patch_that_stands_still_in_a_moving_view_is_lost(rng: np.random.Generator) -> None:
    clean, covered = PatchWatch(), PatchWatch()
    most_clean, last_covered = 0, 0
    for n in range(60):
        image = scene(rng, shift=n * 5)
        most_clean = max(most_clean, clean.look(Look.at(image)))
        if n >= 30:
            image = image.copy()
            image[32:112, 88:264] = 40 + rng.normal(0, 1, (80, 176))
        last_covered = covered.look(Look.at(image.astype(np.float32)))
    assert most_clean < 10 < last_covered


def test_dirt_over_more_than_half_of_the_view_is_found_though_some_light_comes_through(
    rng: np.random.Generator,
) -> None:
    watch, covered = PatchWatch(), []
    for n in range(60):
        image = scene(rng, shift=n * 5)
        if n >= 30:
            image[19:122, 53:299] = 0.1 * image[19:122, 53:299] + 0.9 * 40
        covered.append(watch.look(Look.at(image)))
    assert max(covered[:30]) == 0
    assert min(covered[-10:]) > 40


def test_a_lorry_that_passes_within_two_seconds_is_no_dirt(rng: np.random.Generator) -> None:
    watch, latch = PatchWatch(), Latch(FaultKind.BLOCKED)
    for n in range(60):
        image = scene(rng, shift=n * 5)
        left = max(0, 1200 - n * 40)  # its plain side is half as wide as the image; a look is a fifth of a second
        image[16:112, left : left + 176] = 140 + rng.normal(0, 2, image[16:112, left : left + 176].shape)
        if left == 0:
            break
        latch.update(Evidence(FaultKind.BLOCKED, watch.look(Look.at(image)) >= BLOCKED_PATCHES), n)
        assert latch.fault is None


@pytest.mark.parametrize("suspects", [(), ("CAM_BACK",)])
def test_a_camera_under_suspicion_has_every_other_turn(suspects: tuple[str, ...]) -> None:
    rig = synthetic_rig()
    names = [sensor.name for sensor in rig.of(Modality.CAMERA)]
    rounds = CalibrationRounds(rig, stride=1)
    rounds._watches = {name: SimpleNamespace(is_suspect=name in suspects) for name in names}  # type: ignore[misc]
    turns = [rounds._next() for _ in range(12)]
    assert turns == (names * 2 if not suspects else [one for name in names for one in (name, "CAM_BACK")])


def sweep(points: F32, index: int) -> LidarSweep:
    time = index * PERIOD_NS
    return LidarSweep(
        sensor="lidar",
        capture_ns=time,
        arrival_ns=time + 1,
        points_m=points,
        intensity=np.ones(len(points), np.float32),
        motion=SweepMotion.COMPENSATED,
    )


def ring(rng: np.random.Generator, n: int = 20_000) -> F32:
    """Points on walls 12 to 30 m away, all around."""
    azimuth, distance = rng.uniform(-np.pi, np.pi, n), rng.uniform(12, 30, n)
    return np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), rng.uniform(-1, 2, n)], 1).astype(
        np.float32
    )


def lidar_after(rng: np.random.Generator, spoil: object) -> set[FaultKind]:
    checks = LidarChecks(np.eye(4))
    for index in range(20):
        assert bad(checks.check(sweep(ring(rng), index))) == set()
    points = ring(rng)
    return bad(checks.check(sweep(spoil(points), 20)))  # type: ignore[operator]


def test_lidar_findings(rng: np.random.Generator) -> None:
    def azimuth(p: NDArray[np.float32]) -> NDArray[np.float32]:
        degrees: NDArray[np.float32] = np.degrees(np.arctan2(p[:, 1], p[:, 0]))
        return degrees

    assert lidar_after(rng, lambda p: p) == set()
    assert lidar_after(rng, lambda p: p[(azimuth(p) < 30) | (azimuth(p) > 80)]) == {FaultKind.BLOCKED}
    assert lidar_after(rng, lambda p: p[rng.random(len(p)) < 0.3]) == {FaultKind.COLLAPSED}
    assert lidar_after(rng, lambda p: p[:0]) == {FaultKind.DARK}
    # A lorry beside the car takes half the points of a sector, not all.
    assert lidar_after(rng, lambda p: p[(np.abs(azimuth(p)) > 30) | (rng.random(len(p)) < 0.5)]) == set()


def test_a_repeated_sweep_is_frozen(rng: np.random.Generator) -> None:
    checks, points = LidarChecks(np.eye(4)), ring(rng)
    assert bad(checks.check(sweep(points, 0))) == set()
    assert bad(checks.check(sweep(points.copy(), 1))) == {FaultKind.FROZEN}


def test_a_narrow_field_of_view_is_not_a_blocked_sector(rng: np.random.Generator) -> None:
    checks = LidarChecks(np.eye(4))
    for index in range(30):
        points = ring(rng)
        assert bad(checks.check(sweep(points[np.abs(np.arctan2(points[:, 1], points[:, 0])) < 0.5], index))) == set()


def test_fog_fills_the_air_and_walls_do_not(rng: np.random.Generator) -> None:
    fog = rng.uniform(-10, 10, (20_000, 3)).astype(np.float32)
    wall = np.stack([np.full(5000, 5.0), rng.uniform(-9, 9, 5000), rng.uniform(0, 4, 5000)], 1).astype(np.float32)
    up, ground = np.array([0, 0, 1], np.float32), np.float32(0.0)
    assert air_share(fog, up, ground) > 0.7
    assert air_share(wall, up, ground) < 0.15
    assert air_share(wall[:0], up, ground) == 0.0


def scan(points: F32, index: int) -> RadarScan:
    n = len(points)
    return RadarScan(
        sensor="radar",
        capture_ns=index * PERIOD_NS,
        arrival_ns=index * PERIOD_NS,
        points_m=points,
        rcs_dbsm=np.zeros(n, np.float32),
        radial_mps=points[:, 0].copy(),
        compensated_mps=None,
        is_valid=np.ones(n, bool),
    )


def test_radar_stuck_and_silent(rng: np.random.Generator) -> None:
    checks = RadarChecks()
    for index in range(30):
        assert bad(checks.check(scan(rng.normal(20, 5, (12, 3)).astype(np.float32), index))) == set()
    held = rng.normal(20, 5, (12, 3)).astype(np.float32)
    assert bad(checks.check(scan(held, 30))) == set()
    assert bad(checks.check(scan(held.copy(), 31))) == {FaultKind.STUCK}
    assert bad(checks.check(scan(held[:0], 32))) == {FaultKind.SILENT}


def test_a_radar_that_seldom_sees_anything_is_not_silent() -> None:
    checks = RadarChecks()
    for index in range(60):
        points = np.full((2 if index % 4 == 0 else 0, 3), index, np.float32)
        assert bad(checks.check(scan(points, index))) == set()


def ticks(delays_ms: list[float], shifts_ms: list[float]) -> set[FaultKind]:
    """Findings of a 10 Hz sensor whose messages take so long and whose clock is off by so much."""
    watch, latches = TimingWatch(PERIOD_NS), {kind: Latch(kind) for kind in FaultKind}
    for index, (delay, shift) in enumerate(zip(delays_ms, shifts_ms, strict=True)):
        true_ns = index * PERIOD_NS
        message = EgoState(
            capture_ns=true_ns + round(shift * 1e6), arrival_ns=true_ns + round(delay * 1e6), world_SE3_ego=None
        )
        for one in watch.observe(message):
            latches[one.kind].update(one, message.capture_ns)
    return {kind for kind, latch in latches.items() if latch.fault is not None}


@pytest.mark.parametrize("shift_ms", [400.0, 250.0, -300.0])
def test_a_late_sensor_and_one_with_a_wrong_clock_are_told_apart(shift_ms: float) -> None:
    steady = [30.0] * 40
    assert ticks(steady, [0.0] * 40) == set()
    assert ticks([30.0] * 20 + [180.0] * 20, [0.0] * 40) == {FaultKind.LATE}
    assert ticks(steady, [0.0] * 20 + [shift_ms] * 20) == {FaultKind.CLOCK}


def test_jitter_is_of_the_pace_and_missing_messages_do_not_count(rng: np.random.Generator) -> None:
    watch = TimingWatch(PERIOD_NS)
    for index in range(60):
        if index % 7:
            time = index * PERIOD_NS
            assert bad(watch.observe(EgoState(capture_ns=time, arrival_ns=time + 1000, world_SE3_ego=None))) == set()
    assert watch.jitter_ns < 1000
    assert FaultKind.JITTERY in ticks([float(x) for x in rng.exponential(80, 60)], [0.0] * 60)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
