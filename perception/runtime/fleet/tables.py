"""Results as Parquet: a row for each detection, and a file with a row for each frame."""

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from perception.core.results import PerceptionResult

DETECTIONS_NAME, FRAMES_NAME = "detections.parquet", "frames.parquet"
FRAMES_AT_ONCE: Final = 256
"""Frames held in memory, and in a row group."""

DETECTION_COLUMNS: Final = pa.schema(
    [
        ("drive", pa.dictionary(pa.int32(), pa.string())),
        ("sequence", pa.int64()),
        ("reference_ns", pa.int64()),
        ("label", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float32()),
        *((name, pa.float32()) for name in ("x_m", "y_m", "z_m", "length_m", "width_m", "height_m", "yaw_rad")),
        *((name, pa.float32()) for name in ("velocity_x_mps", "velocity_y_mps")),
        ("attribute", pa.dictionary(pa.int32(), pa.string())),
        ("track_id", pa.int64()),
    ]
)
"""Boxes in the ego frame at the reference time; attribute and track_id are null where there is none."""

FRAME_COLUMNS: Final = pa.schema(
    [
        ("drive", pa.dictionary(pa.int32(), pa.string())),
        ("sequence", pa.int64()),
        ("reference_ns", pa.int64()),
        ("detections", pa.int32()),
        ("world_SE3_ego", pa.list_(pa.float64(), 16)),
        ("target_speed_mps", pa.float64()),
        ("path_m", pa.list_(pa.float32())),
        ("path_confidence", pa.float32()),
        ("sensors_present", pa.list_(pa.string())),
        ("dropped", pa.int64()),
        ("latency_ms", pa.float64()),
        ("ego_motion", pa.string()),
    ]
)
"""world_SE3_ego: row by row, null without poses. path_m: x, y of each waypoint of the surest path. latency_ms: from the
last message's arrival to the result."""


class ParquetTables:
    """Writes both files to `folder`, a row group for every `FRAMES_AT_ONCE` frames. drive: for their column."""

    def __init__(self, folder: Path, drive: str) -> None:
        self._drive = drive
        self._detections = pq.ParquetWriter(folder / DETECTIONS_NAME, DETECTION_COLUMNS, compression="zstd")
        self._frames = pq.ParquetWriter(folder / FRAMES_NAME, FRAME_COLUMNS, compression="zstd")
        self._detection_rows: list[dict[str, Any]] = []
        self._frame_rows: list[dict[str, Any]] = []

    def write(self, result: PerceptionResult) -> None:
        self._detection_rows += _detection_rows(self._drive, result)
        self._frame_rows.append(_frame_row(self._drive, result))
        if len(self._frame_rows) >= FRAMES_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._detections.close()
        self._frames.close()

    def _flush(self) -> None:
        if self._frame_rows:
            self._detections.write_table(pa.Table.from_pylist(self._detection_rows, DETECTION_COLUMNS))
            self._frames.write_table(pa.Table.from_pylist(self._frame_rows, FRAME_COLUMNS))
        self._detection_rows, self._frame_rows = [], []


def _detection_rows(drive: str, result: PerceptionResult) -> list[dict[str, Any]]:
    names = DETECTION_COLUMNS.names
    return [
        dict(
            zip(
                names,
                (drive, result.sequence, result.reference_ns, one.label, one.score, *one.center_m, *one.size_m,
                 one.yaw_rad, *one.velocity_mps, one.attribute, one.track_id),
                strict=True,
            )
        )
        for one in result.detections
    ]  # fmt: skip


def _frame_row(drive: str, result: PerceptionResult) -> dict[str, Any]:
    pose, paths = result.world_SE3_ego, result.path_hints
    return {
        "drive": drive,
        "sequence": result.sequence,
        "reference_ns": result.reference_ns,
        "detections": len(result.detections),
        "world_SE3_ego": None if pose is None else pose.ravel().tolist(),
        "target_speed_mps": paths.target_speed_mps,
        "path_m": paths.waypoints_m[0].ravel().tolist() if len(paths.confidence) else [],
        "path_confidence": float(paths.confidence[0]) if len(paths.confidence) else None,
        "sensors_present": [sensor.name for sensor in result.sensors if sensor.present],
        "dropped": sum(result.provenance.dropped.values()),
        "latency_ms": result.provenance.stage_latency_ns.get("since_last_message", 0) / 1e6,
        "ego_motion": str(result.provenance.ego_motion),
    }
