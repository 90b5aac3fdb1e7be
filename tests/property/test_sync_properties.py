"""What the synchronizer promises whatever the messages do: order, tolerance, accounting, determinism, no silence."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception.config.schema import SensorSync, SyncConfig
from perception.core.bundle import CloseReason, DropCause, SensorBundle, Stamp
from perception.core.cameras import CameraModel
from perception.core.rig import Modality, Sensor, SensorRig
from perception.sync.synchronizer import Synchronizer
from perception.sync.timing import sensor_timings

MS = 1_000_000
START_NS = 1_600_000_000_000_000_000
RATES_HZ = {"lidar": 20.0, "lidar_side": 10.0, "cam_a": 12.0, "cam_b": 30.0, "radar": 13.0}
OFFSETS_MS = {"cam_a": -20.0, "radar": 15.0}


def _rig() -> SensorRig:
    camera = CameraModel(width_px=8, height_px=8, intrinsic=np.eye(3))
    modalities = {"l": Modality.LIDAR, "c": Modality.CAMERA, "r": Modality.RADAR}
    return SensorRig(
        sensors=tuple(
            Sensor(
                name=name,
                modality=modalities[name[0]],
                ego_SE3_sensor=np.eye(4),
                frequency_hz=rate,
                camera=camera if name.startswith("cam") else None,
            )
            for name, rate in RATES_HZ.items()
        )
    )


RIG = _rig()
SENSORS = {name: SensorSync(offset_ms=offset, tolerance_ms=45.0) for name, offset in OFFSETS_MS.items()}


@dataclass(frozen=True)
class Trouble:
    """What goes wrong on the way. dies_ms: per sensor, when it falls silent (0: never there)."""

    seed: int
    jitter_ms: float = 0.0
    delay_ms: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    dies_ms: tuple[tuple[str, int], ...] = ()
    duration_ms: int = 2_500


def messages(trouble: Trouble) -> list[Stamp]:
    random = Random(trouble.seed)
    dies = dict(trouble.dies_ms)
    rows: list[tuple[int, str, int]] = []
    for name, rate in RATES_HZ.items():
        time_ms = random.uniform(0, 1000 / rate)
        while time_ms < min(trouble.duration_ms, dies.get(name, trouble.duration_ms)):
            capture = START_NS + round((time_ms + random.uniform(-1, 1) * trouble.jitter_ms) * MS)
            copies = 0 if random.random() < trouble.loss else 1 + (random.random() < trouble.duplication)
            rows += [(capture + round((10 + random.uniform(0, trouble.delay_ms)) * MS), name, capture)] * copies
            time_ms += 1000 / rate
    rows.sort()
    return [Stamp(index=i, arrival_ns=a, sensor=s, capture_ns=c) for i, (a, s, c) in enumerate(rows)]


@st.composite
def troubles(draw: st.DrawFn) -> Trouble:
    names = draw(st.lists(st.sampled_from(sorted(RATES_HZ)), unique=True, max_size=len(RATES_HZ) - 1))
    return Trouble(
        seed=draw(st.integers(0, 2**32)),
        jitter_ms=draw(st.sampled_from([0.0, 3.0, 20.0, 80.0])),
        delay_ms=draw(st.sampled_from([0.0, 5.0, 60.0, 300.0])),
        loss=draw(st.sampled_from([0.0, 0.05, 0.4, 0.9])),
        duplication=draw(st.sampled_from([0.0, 0.1, 0.7])),
        dies_ms=tuple((name, draw(st.sampled_from([0, 300, 1200]))) for name in names),
    )


@st.composite
def configs(draw: st.DrawFn) -> SyncConfig:
    return SyncConfig(
        tolerance_ms=draw(st.sampled_from([0.0, 10.0, 60.0, 200.0])),
        deadline_ms=draw(st.sampled_from([0.0, 40.0, 150.0])),
        silence_ms=draw(st.sampled_from([200.0, 500.0])),
        buffer_length=draw(st.sampled_from([2, 5, 32])),
        max_open=draw(st.sampled_from([1, 2, 8])),
        sensors=draw(st.sampled_from([{}, SENSORS])),
    )


def run(config: SyncConfig, stamps: list[Stamp], until_ms: int = 0) -> tuple[list[SensorBundle], Counter[DropCause]]:
    synchronizer = Synchronizer(RIG, config)
    bundles = [bundle for stamp in stamps for bundle in synchronizer.push(stamp)]
    if until_ms:
        bundles += synchronizer.advance(START_NS + until_ms * MS)
    bundles += synchronizer.flush()
    return bundles, synchronizer.take_dropped()


def facts(bundle: SensorBundle) -> tuple[object, ...]:
    hits = tuple((name, stamp.index) for name, stamp in bundle.hits.items())
    return (bundle.sequence, bundle.reference_ns, bundle.reference_sensor, bundle.closed_ns, bundle.reason, hits)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(trouble=troubles(), config=configs())
def test_bundles_are_ordered_within_tolerance_and_in_time(trouble: Trouble, config: SyncConfig) -> None:
    timings = sensor_timings(RIG, config)
    bundles, _ = run(config, messages(trouble))
    assert [bundle.sequence for bundle in bundles] == list(range(len(bundles)))
    for before, after in pairwise(bundles):
        assert before.reference_ns < after.reference_ns
        assert before.closed_ns <= after.closed_ns
    for bundle in bundles:
        assert set(bundle.hits) | set(bundle.misses) == set(RATES_HZ)
        assert not set(bundle.hits) & set(bundle.misses)
        assert bundle.opened_ns <= bundle.closed_ns <= bundle.deadline_ns
        for name, stamp in bundle.hits.items():
            expected = bundle.reference_ns + timings[name].offset_ns
            assert stamp.sensor == name
            assert abs(stamp.capture_ns - expected) <= timings[name].tolerance_ns


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(trouble=troubles(), config=configs())
def test_each_stamp_is_used_or_dropped_once_and_released_once(trouble: Trouble, config: SyncConfig) -> None:
    synchronizer = Synchronizer(RIG, config)
    released: Counter[int] = Counter()
    used: set[int] = set()
    stamps = messages(trouble)
    for stamp in stamps:
        for bundle in synchronizer.push(stamp):
            hits = {hit.index for hit in bundle.hits.values()}
            assert not hits & set(released), "a bundle holds what was released before"
            used |= hits
        released.update(synchronizer.take_released())
    used |= {hit.index for bundle in synchronizer.flush() for hit in bundle.hits.values()}
    released.update(synchronizer.take_released())
    assert released == Counter({stamp.index: 1 for stamp in stamps})
    assert synchronizer.take_dropped().total() + len(used) == len(stamps)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(trouble=troubles(), config=configs(), seed=st.integers(0, 2**32))
def test_advancing_in_any_steps_changes_nothing(trouble: Trouble, config: SyncConfig, seed: int) -> None:
    stamps = messages(trouble)
    end_ms = trouble.duration_ms + 1_500
    expected, dropped = run(config, stamps, end_ms)
    random = Random(seed)
    synchronizer = Synchronizer(RIG, config)
    bundles: list[SensorBundle] = []
    followers = [*(stamp.arrival_ns for stamp in stamps[1:]), START_NS + end_ms * MS]
    for stamp, next_ns in zip(stamps, followers, strict=True):
        bundles += synchronizer.push(stamp)
        for now_ns in sorted(random.randint(stamp.arrival_ns, next_ns) for _ in range(random.randint(0, 3))):
            bundles += synchronizer.advance(now_ns)
    if stamps:
        bundles += synchronizer.advance(START_NS + end_ms * MS)
    bundles += synchronizer.flush()
    if stamps:
        assert [facts(bundle) for bundle in bundles] == [facts(bundle) for bundle in expected]
        assert synchronizer.take_dropped() == dropped


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(trouble=troubles())
def test_the_nearest_message_that_was_there_wins(trouble: Trouble) -> None:
    config = SyncConfig(buffer_length=4096, max_open=256)
    synchronizer = Synchronizer(RIG, config)
    timings = sensor_timings(RIG, config)
    pushed: list[Stamp] = []
    for stamp in messages(trouble):
        bundles = synchronizer.push(stamp)
        for bundle in bundles:
            known = [*pushed, stamp] if bundle.closed_ns == stamp.arrival_ns else pushed
            for name, hit in bundle.hits.items():
                expected = timings[name].expected_ns(bundle.reference_ns)
                others = [abs(other.capture_ns - expected) for other in pushed if other.sensor == name]
                mine = abs(hit.capture_ns - expected)
                assert hit in known
                assert mine <= min(others, default=mine)
        pushed.append(stamp)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    dead=st.lists(st.sampled_from(sorted(RATES_HZ)), unique=True),
    dies_ms=st.sampled_from([0, 700, 1500]),
)
def test_no_dead_sensor_silences_the_output(seed: int, dead: list[str], dies_ms: int) -> None:
    config = SyncConfig()
    trouble = Trouble(seed=seed, jitter_ms=2.0, delay_ms=5.0, dies_ms=tuple((name, dies_ms) for name in dead))
    synchronizer = Synchronizer(RIG, config)
    bundles = synchronizer.advance(START_NS)
    for stamp in messages(trouble):
        bundles += synchronizer.push(stamp)
    bundles += synchronizer.advance(START_NS + trouble.duration_ms * MS)
    closed = [START_NS, *(bundle.closed_ns for bundle in bundles), START_NS + trouble.duration_ms * MS]
    longest_ms = max(after - before for before, after in pairwise(closed)) / MS
    assert longest_ms <= config.silence_ms + config.deadline_ms + 1000 / min(RATES_HZ.values())
    references = [bundle.reference_ns for bundle in bundles]
    assert references == sorted(set(references))
    if "lidar" not in dead:
        sweeps = [stamp.capture_ns for stamp in messages(trouble) if stamp.sensor == "lidar"]
        closing = synchronizer.flush()
        assert [b.reference_ns for b in [*bundles, *closing] if b.reference_sensor == "lidar"] == sweeps


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), offset_s=st.sampled_from([-7200, -25, 25, 7200]), victim=st.integers(0, 400))
def test_one_wrong_time_stamp_costs_one_message(seed: int, offset_s: int, victim: int) -> None:
    stamps = messages(Trouble(seed=seed, jitter_ms=2.0, delay_ms=5.0))
    at = 1 + victim % (len(stamps) - 1)
    broken = [replace(s, capture_ns=s.capture_ns + offset_s * 10**9) if i == at else s for i, s in enumerate(stamps)]
    bundles, dropped = run(SyncConfig(), broken)
    without, _ = run(SyncConfig(), [s for i, s in enumerate(stamps) if i != at])
    assert dropped[DropCause.CLOCK_JUMP] == 1
    assert [(b.reference_ns, b.misses) for b in bundles] == [(b.reference_ns, b.misses) for b in without]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    jump_s=st.sampled_from([-7200, -25, 25, 7200]),
    moves_arrival=st.booleans(),
)
def test_a_clock_that_jumps_for_all_is_followed(seed: int, jump_s: int, moves_arrival: bool) -> None:
    stamps = messages(Trouble(seed=seed, jitter_ms=2.0, delay_ms=5.0))
    middle = len(stamps) // 2
    jump = jump_s * 10**9
    jumped = [
        replace(s, capture_ns=s.capture_ns + jump, arrival_ns=s.arrival_ns + jump * moves_arrival) if i >= middle else s
        for i, s in enumerate(stamps)
    ]
    bundles, dropped = run(SyncConfig(), jumped)
    new_clock = [b for b in bundles if abs(b.reference_ns - START_NS - jump) < 3 * 10**9]
    first_full = next(i for i, b in enumerate(new_clock) if not b.misses)
    late_half = [s for s in stamps[middle:] if s.sensor == "lidar"]
    assert len(new_clock) >= len(late_half) - 12
    assert first_full <= 12
    for bundle in new_clock[first_full:-8]:
        assert not bundle.misses
    assert dropped[DropCause.CLOCK_JUMP] < len(stamps) / 4


@pytest.mark.parametrize("offset_s", [-300, 1.5, 3, 300])
def test_one_sensor_with_a_wrong_clock_takes_no_other_along(offset_s: float) -> None:
    stamps = messages(Trouble(seed=3, jitter_ms=2.0, delay_ms=5.0))
    wrong = [replace(s, capture_ns=s.capture_ns + round(offset_s * 1e9)) if s.sensor == "cam_b" else s for s in stamps]
    bundles, dropped = run(SyncConfig(), wrong)
    good = [b for b in bundles if not set(b.misses) - {"cam_b"}]
    assert len(good) >= 0.8 * sum(s.sensor == "lidar" for s in stamps)
    assert all("cam_b" in b.misses for b in good)
    assert dropped[DropCause.CLOCK_JUMP] > 0.9 * sum(s.sensor == "cam_b" for s in stamps)


def test_reasons_are_stated() -> None:
    bundles, _ = run(SyncConfig(), messages(Trouble(seed=5, dies_ms=(("radar", 1000),))))
    reasons = Counter(bundle.reason for bundle in bundles)
    assert reasons[CloseReason.COMPLETE] > 20
    assert reasons[CloseReason.DEADLINE] > 2
    assert reasons[CloseReason.FLUSHED] > 0
