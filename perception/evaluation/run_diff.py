"""Two runs of the same drive beside each other: what one says that the other does not, and by how much they differ."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from perception.core.errors import UsageError
from perception.core.geometry import wrap_angle
from perception.core.results import NO_TRACK, Detections, PathHints, PerceptionResult

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

LATENCY_STAGE = "since_last_message"
"""From the arrival of the last message that a result needs to the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far two runs may be apart and still count as the same.

    match_m: boxes of one class whose centres are further apart are two boxes. ratios: the size of a box by the other's.
    sync: whether both must have used the same messages. frames: how many reference times one of them may lack.
    """

    match_m: float = 2.0
    position_m: float = 0.05
    size_ratio: float = 0.02
    yaw_rad: float = 0.02
    velocity_mps: float = 0.1
    score: float = 0.02
    path_m: float = 0.1
    speed_mps: float = 0.1
    frames: int = 0
    sync: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How much something differs over all frames. limit: what is tolerated."""

    mean: float
    p99: float
    largest: float
    limit: float

    @classmethod
    def of(cls, parts: Sequence[F64], limit: float) -> "Spread":
        values = np.concatenate(parts) if parts else np.zeros(0)
        if not len(values):
            return cls(mean=0.0, p99=0.0, largest=0.0, limit=limit)
        return cls(
            mean=float(values.mean()),
            p99=float(np.percentile(values, 99)),
            largest=float(values.max()),
            limit=limit,
        )

    @property
    def is_within(self) -> bool:
        return self.largest <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDiff:
    """The account of a comparison.

    frames: reference times in both; missing, added: those in the first or the second run alone. boxes: pairs of boxes;
    lost, gained: boxes of the first or the second run alone, less those whose score is too near to the lowest that was
    published to tell. spreads: by what is compared. identity_changes: boxes whose track is another one's than in most
    frames. other_paths: frames in which one run alone has a path, or one for other times. sync_changes: by sensor,
    frames in which another message was used. latency_ms: of both runs, median and 99th percentile. notes: what differs
    before anything was computed. beyond: what is not within the tolerance.
    """

    frames: int
    missing: int
    added: int
    boxes: int
    lost: int
    gained: int
    spreads: Mapping[str, Spread]
    identity_changes: int
    other_paths: int
    sync_changes: Mapping[str, int]
    latency_ms: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]
    beyond: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing is beyond the tolerance."""
        return not self.beyond

    def to_dict(self) -> dict[str, Any]:
        return {"is_same": self.is_same, **asdict(self)}


def diff_runs(first: Iterable[PerceptionResult], second: Iterable[PerceptionResult], tolerance: Tolerance) -> RunDiff:
    """Compare results by reference time. Raises UsageError where the two have none in common."""
    one, other = ({result.reference_ns: result for result in run} for run in (first, second))
    common = sorted(one.keys() & other.keys())
    if not common:
        raise UsageError(
            f"the runs have no reference time in common ({len(one)} and {len(other)} results): are they of one drive?"
        )
    missing, added = len(one) - len(common), len(other) - len(common)
    pairs = [_FramePair(one[time_ns], other[time_ns], tolerance) for time_ns in common]
    floor = _lowest_score(pairs) + tolerance.score
    lost = sum(int(np.sum(pair.lost.score > floor)) for pair in pairs)
    gained = sum(int(np.sum(pair.gained.score > floor)) for pair in pairs)
    limits = {
        "position_m": tolerance.position_m,
        "size_ratio": tolerance.size_ratio,
        "yaw_rad": tolerance.yaw_rad,
        "velocity_mps": tolerance.velocity_mps,
        "score": tolerance.score,
        "path_m": tolerance.path_m,
        "speed_mps": tolerance.speed_mps,
    }
    spreads = {name: Spread.of([pair.changes[name] for pair in pairs], limit) for name, limit in limits.items()}
    sync = dict(sorted(sum((pair.sync_changes for pair in pairs), Counter[str]()).items()))
    identity = _identity_changes(pairs)
    beyond = [
        f"{name} {spread.largest:.3g} > {spread.limit:g}" for name, spread in spreads.items() if not spread.is_within
    ]
    other_paths = sum(pair.has_other_path for pair in pairs)
    counts = {
        "boxes lost": lost,
        "boxes gained": gained,
        "boxes with another track": identity,
        "frames with a path in one run alone or for other times": other_paths,
    }
    beyond += [f"{count} {what}" for what, count in counts.items() if count]
    if missing + added > tolerance.frames:
        beyond.append(f"{missing + added} frames in one run alone > {tolerance.frames}")
    if sync and tolerance.sync:
        beyond.append(f"other messages were used: {', '.join(f'{name} in {n} frames' for name, n in sync.items())}")
    return RunDiff(
        frames=len(common), missing=missing, added=added,
        boxes=sum(len(pair.rows) for pair in pairs), lost=lost, gained=gained,
        spreads=spreads, identity_changes=identity, other_paths=other_paths, sync_changes=sync,
        latency_ms={"first": _latency_ms(one.values()), "second": _latency_ms(other.values())},
        notes=_notes(one[common[0]], other[common[0]]), beyond=tuple(beyond),
    )  # fmt: skip


class _FramePair:
    """Both runs at one reference time. rows: (K, 2) of boxes that belong together, by row in each."""

    def __init__(self, one: PerceptionResult, other: PerceptionResult, tolerance: Tolerance) -> None:
        self.one, self.other = one.detections, other.detections
        self.rows = _match(self.one, self.other, tolerance.match_m)
        self.lost = self.one.rows(np.setdiff1d(np.arange(len(self.one)), self.rows[:, 0]))
        self.gained = self.other.rows(np.setdiff1d(np.arange(len(self.other)), self.rows[:, 1]))
        path = _path_change(one.path_hints, other.path_hints)
        self.has_other_path = path is None
        self.changes = {
            **_box_changes(self.one.rows(self.rows[:, 0]), self.other.rows(self.rows[:, 1])),
            "path_m": np.zeros(0) if path is None else path,
            "speed_mps": np.abs(
                np.array([one.path_hints.target_speed_mps - other.path_hints.target_speed_mps], dtype=np.float64)
            ),
        }
        self.sync_changes = _sync_changes(one, other)

    @property
    def track_pairs(self) -> list[tuple[int, int]]:
        """Tracks of the boxes that belong together, where both have one."""
        pairs = zip(
            self.one.track_id[self.rows[:, 0]].tolist(), self.other.track_id[self.rows[:, 1]].tolist(), strict=True
        )
        return [(first, second) for first, second in pairs if NO_TRACK not in (first, second)]


def _match(one: Detections, other: Detections, limit_m: float) -> I64:
    """Boxes of one class that are nearest to each other, over the whole frame at once: rows (K, 2)."""
    distance = np.linalg.norm(one.center_m[:, None].astype(np.float64) - other.center_m[None], axis=-1)
    is_possible = (distance <= limit_m) & (one.class_index[:, None] == other.class_index[None])
    rows, columns = linear_sum_assignment(np.where(is_possible, distance, 1e6))
    keep = is_possible[rows, columns]
    return np.stack([rows[keep], columns[keep]], axis=1).astype(np.int64)


def _box_changes(one: Detections, other: Detections) -> dict[str, F64]:
    yaw = one.yaw_rad.astype(np.float64) - other.yaw_rad
    ratio = np.maximum(one.size_m, other.size_m).astype(np.float64) / np.minimum(one.size_m, other.size_m)
    return {
        "position_m": np.linalg.norm(one.center_m.astype(np.float64) - other.center_m, axis=1),
        "size_ratio": ratio.max(axis=1) - 1,
        "yaw_rad": np.abs(wrap_angle(yaw)),
        "velocity_mps": np.linalg.norm(one.velocity_mps.astype(np.float64) - other.velocity_mps, axis=1),
        "score": np.abs(one.score.astype(np.float64) - other.score),
    }


def _path_change(one: PathHints, other: PathHints) -> F64 | None:
    """The largest distance (1,) between the surest paths; (0,) without any, None where they cannot be compared."""
    if not len(one.confidence) and not len(other.confidence):
        return np.zeros(0)
    if not len(one.confidence) or not len(other.confidence) or not np.array_equal(one.times_s, other.times_s):
        return None
    apart = np.linalg.norm(one.waypoints_m[0].astype(np.float64) - other.waypoints_m[0], axis=-1)
    return np.array([apart.max(initial=0.0)])


def _sync_changes(one: PerceptionResult, other: PerceptionResult) -> Counter[str]:
    """Sensors of which one run used another message than the other, or none."""
    used = [{sensor.name: (sensor.present, sensor.age_ns) for sensor in result.sensors} for result in (one, other)]
    return Counter(name for name in used[0].keys() | used[1].keys() if used[0].get(name) != used[1].get(name))


def _identity_changes(pairs: Sequence[_FramePair]) -> int:
    """Boxes that are not with the track of the second run that most boxes of their track are with."""
    together = Counter(track for pair in pairs for track in pair.track_pairs)
    usual: dict[int, int] = {}
    for (first, _), count in together.items():
        usual[first] = max(usual.get(first, 0), count)
    return sum(together.values()) - sum(usual.values())


def _lowest_score(pairs: Sequence[_FramePair]) -> float:
    scores = np.concatenate([scores for pair in pairs for scores in (pair.one.score, pair.other.score)])
    return float(scores.min(initial=1.0)) if len(scores) else 0.0


def _latency_ms(results: Iterable[PerceptionResult]) -> tuple[float, float]:
    """Median and 99th percentile."""
    times_ns = [result.provenance.stage_latency_ns.get(LATENCY_STAGE, 0) for result in results]
    return float(np.median(times_ns)) / 1e6, float(np.percentile(times_ns, 99)) / 1e6


def _notes(one: PerceptionResult, other: PerceptionResult) -> tuple[str, ...]:
    """What was not the same to begin with."""
    described = {
        "drive": (one.drive_id, other.drive_id),
        "model": tuple(f"{result.provenance.model} {result.provenance.model_hash}" for result in (one, other)),
        "calibration": (one.provenance.calibration_hash, other.provenance.calibration_hash),
        "ego motion": (str(one.provenance.ego_motion), str(other.provenance.ego_motion)),
        "placement": (one.provenance.placement, other.provenance.placement),
    }
    return tuple(f"{what}: {first}, then {second}" for what, (first, second) in described.items() if first != second)
