"""What was true during a drive: its labels and where the ego went, collected while the messages pass."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import invert, transform_points, yaw_of
from perception.core.labels import Labels
from perception.core.messages import AnyMessage
from perception.core.ports import Source, TruthSource
from perception.evaluation.future_path import FuturePath, exact_path
from perception.evaluation.planning import STEPS_S

F64 = NDArray[np.float64]

SETTLE_NS: Final = 200_000_000
"""Labels are asked for so long after their time: a simulator counts points of sensors that arrive later."""
NEAR_LABEL_NS: Final = 150_000_000
"""Boxes of another time may stand in for a path's step this far away, moved on at their velocities."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DriveTruth:
    """labels: by reference time. poses: of the drive.

    driven_m: (6, 2) by reference time, where the ego was at `STEPS_S`, of those that a simulator knows exactly.
    """

    labels: Mapping[int, Labels]
    driven_m: Mapping[int, F64]
    poses: FuturePath

    def path_at(self, reference_ns: int) -> tuple[F64, NDArray[np.bool_]]:
        """(6, 2) where the ego was at `STEPS_S`, and (6,) True where that is known."""
        if (driven := self.driven_m.get(reference_ns)) is not None:
            return driven, np.ones(len(STEPS_S), dtype=np.bool_)
        return self.poses.path_at(reference_ns, STEPS_S)

    def boxes_at(self, reference_ns: int) -> tuple[F64 | None, ...]:
        """For each of `STEPS_S` the boxes (K, 5) then: x, y, length, width, yaw in the ego frame at the reference.

        From the nearest labels; None where there are none within `NEAR_LABEL_NS`, or poses are lacking.
        """
        here = self.poses.pose_at(reference_ns)
        times = np.array(sorted(self.labels), dtype=np.int64)
        if here is None or len(times) == 0:
            return (None,) * len(STEPS_S)
        return tuple(self._boxes_near(reference_ns + round(t * 1e9), times, here) for t in STEPS_S.tolist())

    def _boxes_near(self, time_ns: int, times: NDArray[np.int64], world_SE3_reference: F64) -> F64 | None:
        nearest = int(times[np.argmin(np.abs(times - time_ns))])
        pose = self.poses.pose_at(nearest)
        if abs(nearest - time_ns) > NEAR_LABEL_NS or pose is None:
            return None
        labels = self.labels[nearest]
        reference_SE3_then = invert(world_SE3_reference) @ pose
        center = labels.center_m.copy()
        center[:, :2] += np.nan_to_num(labels.velocity_mps) * ((time_ns - nearest) / 1e9)
        place = transform_points(reference_SE3_then, center)[:, :2]
        turn = float(yaw_of(reference_SE3_then[:3, :3]))
        return np.column_stack([place, labels.size_m[:, :2], labels.yaw_rad + turn])


class TruthCollector:
    """Asks a source for its truth as soon as it can be known; `observe` every message, then `finish`.

    Raises DriveError naming the drive where it has no labels at all.
    """

    def __init__(self, source: Source, reference_times: tuple[int, ...]) -> None:
        if not reference_times:
            raise DriveError(
                f"{source.drive_id}: the drive has no labels, so there is nothing to evaluate against; "
                "choose a labelled drive (a simulated one always is)"
            )
        self._source = source
        self._unlabelled = deque(reference_times)
        self._undriven = deque(reference_times if isinstance(source, TruthSource) else ())
        self._labels: dict[int, Labels] = {}
        self._driven: dict[int, F64] = {}
        self._poses = FuturePath()

    def observe(self, message: AnyMessage) -> None:
        self._poses.observe(message)
        self._ask(message.arrival_ns)

    def finish(self) -> DriveTruth:
        """Ask for what is left and hand everything over. Call before the source is closed."""
        self._ask(None)
        if not self._labels:
            raise DriveError(f"{self._source.drive_id}: none of its label times has labels; check its annotations")
        return DriveTruth(labels=self._labels, driven_m=self._driven, poses=self._poses)

    def _ask(self, now_ns: int | None) -> None:
        while self._unlabelled and (now_ns is None or self._unlabelled[0] + SETTLE_NS <= now_ns):
            time_ns = self._unlabelled.popleft()
            if (labels := self._source.labels(time_ns)) is not None:
                self._labels[time_ns] = labels
        horizon_ns = round(float(STEPS_S[-1]) * 1e9)
        while self._undriven and (now_ns is None or self._undriven[0] + horizon_ns <= now_ns):
            time_ns = self._undriven.popleft()
            if (path := exact_path(self._source, time_ns, STEPS_S)) is not None:
                self._driven[time_ns] = path
