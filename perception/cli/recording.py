"""What `--record` makes of its argument."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import UsageError
from perception.core.geometry import invert, transform_points
from perception.core.labels import Labels
from perception.core.messages import LidarSweep, SweepMotion
from perception.core.ports import Recorded, Recorder, Source
from perception.core.results import EndOfRun, PerceptionResult
from perception.pipeline.recording import result_format
from perception.recorders.mcap import McapRecorder
from perception.recorders.mcap_files import Rotation
from perception.recorders.nuscenes import NuScenesRecorder
from perception.recorders.nuscenes_map import CELL_M, DrivableMask
from perception.sync.compensation import sweep_at_reference
from perception.sync.ego_estimator import MOTION_SPAN_NS, EgoMotionEstimator

KEYFRAME_NS = 490_000_000
"""nuScenes labels at 2 Hz; of labels that come faster, those nearer than this to the last one are left out."""


@runtime_checkable
class Mapped(Protocol):
    """A source that knows the map it drives on: the simulator."""

    def drivable_map(self, cell_m: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """(H, W), True where one may drive, row 0 at the lowest y, and the world point (2,) where the map begins."""
        ...


def open_recorder(path: Path, source: Source, rotation: Rotation | None = None) -> Recorder:
    """A recorder chosen by the suffix of `path`: `.mcap`, or a folder, which becomes a nuScenes root.

    Raises UsageError for other suffixes and for what exists already.
    """
    if path.suffix == ".mcap":
        if path.exists():
            raise UsageError(f"--record {path}: it exists already; choose another name")
        return McapRecorder(
            path, source.rig, source.drive_id, notes=source.notes, results=result_format(), rotation=rotation
        )
    if path.suffix:
        raise UsageError(
            f"--record {path}: no recorder writes {path.suffix} files; "
            "give a .mcap file, or a folder for a nuScenes root"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--record {path}: it exists and is not an empty folder; choose another name")
    return _FittingRecorder(path, source)


def rotation_of(megabytes: float | None, seconds: float | None) -> Rotation:
    """What `--rotate-mb` and `--rotate-s` say."""
    return Rotation(
        max_bytes=None if megabytes is None else round(megabytes * 1e6),
        max_ns=None if seconds is None else round(seconds * 1e9),
    )


class _FittingRecorder:
    """Fits a drive to a nuScenes root: deskews raw sweeps, as points have no times there, and labels at 2 Hz."""

    def __init__(self, path: Path, source: Source) -> None:
        self._rig = source.rig
        self._estimator = EgoMotionEstimator(source.rig)
        self._labelled_ns: int | None = None
        drivable = None
        if isinstance(source, Mapped):
            is_drivable, corner_m = source.drivable_map(CELL_M)
            drivable = DrivableMask(is_drivable=is_drivable, corner_m=corner_m)
        self._recorder = NuScenesRecorder(
            path, source.rig, source.drive_id, compensate=self._compensate, drivable=drivable
        )

    def write(self, item: Recorded) -> None:
        if isinstance(item, Labels):
            if self._labelled_ns is not None and item.reference_ns - self._labelled_ns < KEYFRAME_NS:
                return
            self._labelled_ns = item.reference_ns
        elif not isinstance(item, PerceptionResult | EndOfRun):
            self._estimator.observe(item)
        self._recorder.write(item)

    def close(self) -> None:
        self._recorder.close()

    def _compensate(self, sweep: LidarSweep) -> LidarSweep:
        mount = self._rig[sweep.sensor].ego_SE3_sensor
        moved = sweep_at_reference(sweep, mount, self._estimator.motion_at(sweep.capture_ns, MOTION_SPAN_NS))
        ring = sweep.ring if sweep.ring is None or len(sweep.ring) == len(moved.intensity) else None
        return replace(
            sweep,
            points_m=transform_points(invert(mount), moved.points_ego_m).astype(np.float32),
            intensity=moved.intensity,
            point_offset_ns=None,
            ring=ring,
            motion=SweepMotion.COMPENSATED,
        )
