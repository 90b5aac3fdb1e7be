"""Drives in the nuScenes format: any version folder, any sensors, keyframes and sweeps, poses and annotations.

The format records no arrival times: they are capture times plus `LatencyConfig`. Lidar sweeps are compensated for
ego motion and stamped at their end; the lidar frame (x right, y forward) is kept, the rig's mount turns it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perception.config.schema import LatencyConfig
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, EgoState
from perception.core.rig import Modality, SensorRig
from perception.sources.nuscenes_files import load_message
from perception.sources.nuscenes_labels import annotations_by_sample, sample_labels
from perception.sources.nuscenes_poses import ego_states, pose_matrices
from perception.sources.nuscenes_rig import Channels, build_rig, reference_channel, rows_by_channel
from perception.sources.nuscenes_tables import SampleDataRow, SceneTables, find_version, read_scene, read_scenes


def scenes(root: Path | str, version: str | None = None) -> tuple[str, ...]:
    """Names of the scenes under `root`, in the order of the table. Raises DriveError where there are none."""
    folder, _ = find_version(Path(root), version)
    return tuple(row.name for row in read_scenes(folder))


@dataclass(frozen=True, slots=True)
class _SensorFile:
    """A message whose payload is read when its turn comes."""

    arrival_ns: int
    capture_ns: int
    sensor: str
    filename: str


class NuScenesSource:
    """One scene of a nuScenes-format data set.

    root: the data set's root, or its version folder. scene: name, token or number from 0; default the first.
    Raises DriveError naming file, row and field where the tables are missing or broken.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        version: str | None = None,
        scene: str | int | None = None,
        latency: LatencyConfig | None = None,
    ) -> None:
        folder, other_versions = find_version(Path(root), version)
        tables = read_scene(folder, scene)
        channels = rows_by_channel(tables)
        delay_ns = _latencies_ns(latency or LatencyConfig())
        self._root = folder.parent
        self._drive_id = f"nuscenes/{tables.scene.name}"
        self._rig, rig_notes = build_rig(tables, channels)
        ego = ego_states(tables.poses.values(), folder / "ego_pose.json", delay_ns["ego"])
        self._in_order: list[EgoState | _SensorFile] = [*ego, *_sensor_files(self._rig, channels, delay_ns)]
        self._in_order.sort(key=lambda item: (item.arrival_ns, item.capture_ns, item.sensor))
        self._labels = _read_labels(tables, channels[reference_channel(self._rig)])
        self._notes = (*_notes(tables, other_versions, channels, is_default=scene is None), *rig_notes)

    @property
    def drive_id(self) -> str:
        return self._drive_id

    @property
    def rig(self) -> SensorRig:
        return self._rig

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    @property
    def span_ns(self) -> tuple[int, int]:
        return self._in_order[0].arrival_ns, self._in_order[-1].arrival_ns

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        """Capture times of the reference sensor's keyframes, rising; empty where the drive is not annotated."""
        return tuple(self._labels)

    def messages(self) -> Iterator[AnyMessage]:
        for item in self._in_order:
            if isinstance(item, EgoState):
                yield item
            else:
                yield load_message(self._root, item.filename, self._rig[item.sensor], item.capture_ns, item.arrival_ns)

    def labels(self, reference_ns: int) -> Labels | None:
        return self._labels.get(reference_ns)

    def close(self) -> None:
        """Sensor files are closed as soon as they are read."""


def _sensor_files(rig: SensorRig, channels: Channels, delay_ns: dict[str, int]) -> list[_SensorFile]:
    return [
        _SensorFile(row.timestamp * 1000 + delay_ns[rig[name].modality], row.timestamp * 1000, name, row.filename)
        for name, rows in channels.items()
        for row in rows
    ]


def _latencies_ns(latency: LatencyConfig) -> dict[str, int]:
    """Delay from capture to arrival by modality, and for `ego`."""
    return {
        Modality.CAMERA: round(latency.camera_ms * 1e6),
        Modality.LIDAR: round(latency.lidar_ms * 1e6),
        Modality.RADAR: round(latency.radar_ms * 1e6),
        "ego": round(latency.ego_ms * 1e6),
    }


def _read_labels(tables: SceneTables, reference_rows: list[SampleDataRow]) -> dict[int, Labels]:
    """Labels of every keyframe by its capture time, rising. All are made here: a broken row shows before the replay."""
    if not tables.annotations:
        return {}
    annotations = annotations_by_sample(tables)
    keyframes = [row for row in reference_rows if row.is_key_frame]
    poses = pose_matrices((tables.poses[row.ego_pose_token] for row in keyframes), tables.folder / "ego_pose.json")
    return {
        row.timestamp * 1000: sample_labels(tables, annotations[row.sample_token], row.timestamp * 1000, pose)
        for row, pose in zip(keyframes, poses, strict=True)
    }


def _notes(
    tables: SceneTables, other_versions: tuple[str, ...], channels: Channels, *, is_default: bool
) -> tuple[str, ...]:
    notes = ["arrival times are assumed: the format has none"]
    others = [name for name in tables.scene_names if name != tables.scene.name]
    if others and is_default:
        names = ", ".join(others[:10]) + (f" and {len(others) - 10} more" if len(others) > 10 else "")
        notes.append(f"{tables.scene.name} was chosen, the first scene; the others are {names}")
    if other_versions:
        notes.append(f"the tables of {tables.folder.name} are used; there are also {', '.join(other_versions)}")
    silent = [row.channel for row in tables.sensors.values() if row.channel not in channels]
    if silent:
        notes.append(f"no data of {', '.join(silent)}")
    if not tables.annotations:
        notes.append("the scene is not annotated")
    return tuple(notes)
