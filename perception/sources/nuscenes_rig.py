"""The rig of a nuScenes scene: mounts and intrinsics of the sensors that have data, rates measured from timestamps."""

import numpy as np

from perception.core.cameras import CameraModel
from perception.core.errors import DriveError
from perception.core.geometry import se3_from_quaternion
from perception.core.rig import Modality, Sensor, SensorRig
from perception.sources.nuscenes_tables import CalibratedSensorRow, SampleDataRow, SceneTables, SensorRow

NOMINAL_HZ = {Modality.CAMERA: 12.0, Modality.LIDAR: 20.0, Modality.RADAR: 13.0}
MAX_OFFSET_SPREAD_NS = 20_000_000
"""A sensor whose keyframes keep their distance from the reference's within this is triggered by it."""

Channels = dict[str, list[SampleDataRow]]


def rows_by_channel(tables: SceneTables) -> Channels:
    """Rows of each sensor in order of capture; sensors ordered as a rig: cameras, lidars, radars, each as in the table.

    Raises DriveError naming row and field where a token leads nowhere or a modality is unknown.
    """
    found: dict[str, list[SampleDataRow]] = {}
    modality_of: dict[str, Modality] = {}
    for row in tables.data:
        sensor = _links(tables, row)[1]
        if row.ego_pose_token not in tables.poses:
            raise tables.broken_link("sample_data", row, "ego_pose_token", "ego_pose")
        found.setdefault(sensor.channel, []).append(row)
        modality_of[sensor.channel] = _modality(tables, sensor)
    ordered = [row.channel for row in tables.sensors.values() if row.channel in found]
    ordered.sort(key=lambda channel: list(Modality).index(modality_of[channel]))
    return {channel: sorted(found[channel], key=lambda row: row.timestamp) for channel in ordered}


def reference_channel(rig: SensorRig) -> str:
    """The sensor whose keyframes carry the labels: the first lidar, else the first camera, else the first radar."""
    for modality in (Modality.LIDAR, Modality.CAMERA, Modality.RADAR):
        if found := rig.of(modality):
            return found[0].name
    raise AssertionError("a rig has at least one sensor")


def build_rig(tables: SceneTables, channels: Channels) -> tuple[SensorRig, tuple[str, ...]]:
    """The rig, and a note for each sensor that is calibrated more than once in the scene (the first one counts).

    Raises DriveError naming the sensor where its calibration is broken.
    """
    notes = []
    sensors = []
    reference = _reference_times(tables, channels)
    for channel, rows in channels.items():
        calibration, sensor = _links(tables, rows[0])
        if any(row.calibrated_sensor_token != calibration.token for row in rows):
            notes.append(f"{channel} changes its calibration within the scene; the first one is used throughout")
        modality = _modality(tables, sensor)
        try:
            sensors.append(
                Sensor(
                    name=channel,
                    modality=modality,
                    ego_SE3_sensor=se3_from_quaternion(calibration.rotation, calibration.translation),
                    frequency_hz=_frequency_hz(rows, modality),
                    offset_ns=0 if modality is Modality.RADAR else _offset_ns(rows, reference),
                    camera=_camera(calibration, rows[0]) if modality is Modality.CAMERA else None,
                )
            )
        except ValueError as error:
            path = tables.folder / "calibrated_sensor.json"
            raise DriveError(f"{path}: row {calibration.token} ({channel}): {error}; restore the table") from error
    try:
        return SensorRig(sensors=tuple(sensors)), tuple(notes)
    except ValueError as error:
        raise DriveError(f"{tables.folder / 'sensor.json'}: {error}") from error


def _links(tables: SceneTables, row: SampleDataRow) -> tuple[CalibratedSensorRow, SensorRow]:
    calibration = tables.calibrations.get(row.calibrated_sensor_token)
    if calibration is None:
        raise tables.broken_link("sample_data", row, "calibrated_sensor_token", "calibrated_sensor")
    sensor = tables.sensors.get(calibration.sensor_token)
    if sensor is None:
        raise tables.broken_link("calibrated_sensor", calibration, "sensor_token", "sensor")
    return calibration, sensor


def _modality(tables: SceneTables, sensor: SensorRow) -> Modality:
    try:
        return Modality(sensor.modality)
    except ValueError:
        known = ", ".join(Modality)
        raise DriveError(
            f"{tables.folder / 'sensor.json'}: row {sensor.token}, field modality: {sensor.modality!r}, not {known}"
        ) from None


def _camera(calibration: CalibratedSensorRow, row: SampleDataRow) -> CameraModel:
    """nuScenes images are rectified: a pinhole. Raises ValueError where intrinsics or the image's size are missing."""
    if len(calibration.camera_intrinsic) != 3:
        raise ValueError("camera_intrinsic must be a 3x3 matrix")
    if not row.width or not row.height:
        raise ValueError(f"width and height of its sample_data row {row.token} are missing")
    return CameraModel(
        width_px=row.width, height_px=row.height, intrinsic=np.array(calibration.camera_intrinsic, dtype=np.float64)
    )


def _frequency_hz(rows: list[SampleDataRow], modality: Modality) -> float:
    """From the median step between captures; the nominal rate where there are fewer than two."""
    steps_us = np.diff(np.array([row.timestamp for row in rows], dtype=np.float64))
    steps_us = steps_us[steps_us > 0]
    return float(1e6 / np.median(steps_us)) if len(steps_us) else NOMINAL_HZ[modality]


def _reference_times(tables: SceneTables, channels: Channels) -> dict[str, int]:
    """Capture time in us of the first lidar's keyframe, by sample; empty without a lidar."""
    for rows in channels.values():
        if _links(tables, rows[0])[1].modality == Modality.LIDAR:
            return {row.sample_token: row.timestamp for row in rows if row.is_key_frame}
    return {}


def _offset_ns(rows: list[SampleDataRow], reference: dict[str, int]) -> int:
    """How much later than the lidar's its keyframes are captured: fixed where the lidar triggers it, else 0."""
    keys = [row for row in rows if row.is_key_frame and row.sample_token in reference]
    if not keys:
        return 0
    offsets = np.array([row.timestamp - reference[row.sample_token] for row in keys], dtype=np.int64) * 1000
    return int(np.median(offsets)) if np.ptp(offsets) <= MAX_OFFSET_SPREAD_NS else 0
