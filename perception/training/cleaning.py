"""What of a drive's data is not fit to learn from: each rule has a name, and whatever it finds is counted under it."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import quaternion_to_rotation, yaw_of
from perception.core.labels import Labels
from perception.models.boxes import MAX_SIZE_M, MIN_SIZE_M, encode_boxes
from perception.models.preprocess import MAX_SPEED_MPS, Z_RANGE_M

EXAMPLES: Final = 3
"""So many finds of each rule are kept with where they were."""


class Rule(StrEnum):
    """What was found; the keys of `Findings.counts`."""

    OTHER_CLASS = "label outside the ten classes"
    NOT_FINITE = "label with a number that is not finite"
    ABSURD_SIZE = "label of absurd size"
    OUT_OF_RANGE = "label outside the range of the network"
    NO_POINTS = "label without any lidar or radar point"
    TOO_MANY = "label beyond the nearest that fit"
    ABSURD_VELOCITY = "label of absurd velocity (kept without it)"
    UNREADABLE = "message that cannot be read"
    UNREADABLE_IMAGE = "image that cannot be read"
    POINT_NOT_FINITE = "lidar point that is not finite"
    FRAME_WITHOUT_SENSORS = "frame without sensors"
    FRAME_AGAIN = "frame that was there already"
    TIME_WITHOUT_FRAME = "labelled time without a frame"
    DRIVE_WITHOUT_LABELS = "drive without labels"
    DRIVE_AGAIN = "drive that was named twice"
    DRIVE_FAILED = "drive that cannot be read"


@dataclass(slots=True)
class Findings:
    """Bad data, counted by rule, with the first few places of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, rule: Rule, where: str, count: int = 1) -> None:
        if count:
            self.counts[rule.value] += count
            self._show(rule.value, [where])

    def merge(self, other: "Findings") -> None:
        self.counts.update(other.counts)
        for rule, places in other.examples.items():
            self._show(rule, places)

    def lines(self) -> list[str]:
        """A line for each rule that found something, the most frequent first."""
        return [f"{count} x {rule}: {'; '.join(self._places(rule))}" for rule, count in self.counts.most_common()]

    def to_json(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "examples": self.examples}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Findings":
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        counts = Counter({str(rule): int(count) for rule, count in values["counts"].items()})
        return cls(counts, {str(rule): list(map(str, places)) for rule, places in values["examples"].items()})

    def _show(self, rule: str, places: list[str]) -> None:
        shown = self.examples.setdefault(rule, [])
        shown.extend(places[: EXAMPLES - len(shown)])

    def _places(self, rule: str) -> list[str]:
        places = self.examples.get(rule, [])
        return [*places, "..."] if len(places) < self.counts[rule] else places


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CleanLabels:
    """M labels to learn from, the nearest first. class_index, attribute_index: (M,) int64. boxes: (M, 10) float32 as
    `BOX_FIELDS`, velocity nan where not known. visible_share: (M,) float32, nan where not known."""

    class_index: NDArray[np.int64]
    boxes: NDArray[np.float32]
    attribute_index: NDArray[np.int64]
    visible_share: NDArray[np.float32]


def clean_labels(labels: Labels, range_m: float, max_boxes: int, findings: Findings, where: str) -> CleanLabels:
    """The labels of a frame that the network can learn; each other one is counted under the first rule it breaks.

    range_m: half the side of the square that the network sees. where: names the frame in `findings`.
    """
    is_kept = np.ones(len(labels), dtype=np.bool_)
    for rule, is_broken in _checks(labels, range_m):
        found = np.flatnonzero(is_kept & is_broken)
        findings.add(rule, f"{where}, {_first(labels, found)}", len(found))
        is_kept[found] = False
    kept = np.flatnonzero(is_kept)
    kept = kept[np.argsort(np.linalg.norm(labels.center_m[kept, :2], axis=1), kind="stable")]
    findings.add(Rule.TOO_MANY, where, len(kept) - len(kept[:max_boxes]))
    kept = kept[:max_boxes]
    velocity = _velocity(labels, kept, findings, where)
    yaw = yaw_of(quaternion_to_rotation(labels.quaternion_wxyz[kept])) if len(kept) else np.zeros(0)
    return CleanLabels(
        class_index=labels.class_index[kept],
        boxes=encode_boxes(labels.center_m[kept], labels.size_m[kept], yaw, velocity),
        attribute_index=labels.attribute_index[kept],
        visible_share=_visible_share(labels)[kept],
    )


def _checks(labels: Labels, range_m: float) -> list[tuple[Rule, NDArray[np.bool_]]]:
    """For each rule, in order, which labels (K,) break it. A comparison with nan is False: those go first."""
    center, size, turn = labels.center_m, labels.size_m, labels.quaternion_wxyz
    is_finite = np.isfinite(np.concatenate([center, size, turn], axis=1)).all(axis=1)
    is_turn = np.linalg.norm(np.nan_to_num(turn), axis=1) > 1e-6
    is_inside = (np.abs(center[:, :2]) < range_m).all(axis=1)
    is_inside &= (center[:, 2] > Z_RANGE_M[0]) & (center[:, 2] < Z_RANGE_M[1])
    # Where one of the two was not counted, nobody knows whether the object was seen.
    is_unseen = (labels.num_lidar_points == 0) & (labels.num_radar_points == 0)
    return [
        (Rule.OTHER_CLASS, labels.class_index < 0),
        (Rule.NOT_FINITE, ~(is_finite & is_turn)),
        (Rule.ABSURD_SIZE, ~((size >= MIN_SIZE_M) & (size <= MAX_SIZE_M)).all(axis=1)),
        (Rule.OUT_OF_RANGE, ~is_inside),
        (Rule.NO_POINTS, is_unseen),
    ]


def _visible_share(labels: Labels) -> NDArray[np.float32]:
    share = np.full(len(labels), np.nan) if labels.visible_share is None else labels.visible_share
    return share.astype(np.float32)


def _velocity(labels: Labels, kept: NDArray[np.int64], findings: Findings, where: str) -> NDArray[np.float64]:
    """Velocities (M, 2) of the kept labels, nan where not known or beyond what anything drives."""
    velocity = labels.velocity_mps[kept]
    is_absurd = np.any(np.abs(velocity) > MAX_SPEED_MPS, axis=1)
    findings.add(Rule.ABSURD_VELOCITY, f"{where}, {_first(labels, kept[is_absurd])}", int(is_absurd.sum()))
    is_unknown = is_absurd | ~np.isfinite(velocity).all(axis=1)
    return np.where(is_unknown[:, None], np.nan, velocity)


def _first(labels: Labels, found: NDArray[np.int64]) -> str:
    return f"{labels.category[found[0]]} {labels.track_id[found[0]]}" if len(found) else ""
