"""Sensor rigs as YAML describes them: mounts, optics, beams, rates and delays, checked before anything is built."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from perception.config.load import load_settings
from perception.config.paths import find_config
from perception.config.schema import Settings
from perception.core.cameras import CameraModel, Projection
from perception.core.errors import ConfigError
from perception.core.geometry import se3
from perception.core.messages import EGO_SENSOR, ROUTE_SENSOR
from perception.core.rig import MAX_CAMERAS, Modality, Sensor, SensorRig

F64 = NDArray[np.float64]

OPTICAL_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""body_R_camera of a camera that looks along the body's x axis: x right, y down, z forward."""

Degrees = Annotated[float, Field(ge=-360, le=360)]
Milliseconds = Annotated[float, Field(ge=0, le=5_000)]
Rate = Annotated[float, Field(ge=0.1, le=1_000)]


class MountConfig(Settings):
    """Where a sensor sits in the ego frame, and where its x axis points: yaw, then pitch (down positive), then roll."""

    x_m: Annotated[float, Field(ge=-15, le=15)]
    y_m: Annotated[float, Field(ge=-3, le=3)]
    z_m: Annotated[float, Field(gt=0, le=6)]
    yaw_deg: Degrees = 0.0
    pitch_deg: Degrees = 0.0
    roll_deg: Degrees = 0.0

    @property
    def ego_SE3_body(self) -> F64:
        yaw, pitch, roll = np.radians([self.yaw_deg, self.pitch_deg, self.roll_deg])
        turn = _about(2, yaw) @ _about(1, pitch) @ _about(0, roll)
        return se3(turn, (self.x_m, self.y_m, self.z_m))


class TimingConfig(Settings):
    """When a sensor captures and when its messages arrive. Phases count from the start of the drive."""

    rate_hz: Rate
    phase_ms: Milliseconds = 0.0
    jitter_ms: Milliseconds = 0.0
    """Standard deviation of capture times about the nominal ones."""
    delay_ms: Milliseconds = 10.0
    """From capture to arrival, at the least."""
    delay_jitter_ms: Milliseconds = 0.0
    """Mean of what comes on top of the delay (exponential)."""

    @model_validator(mode="after")
    def _check(self) -> "TimingConfig":
        if self.jitter_ms > 250.0 / self.rate_hz:
            raise ValueError(
                f"jitter_ms {self.jitter_ms} must be at most a quarter of the period, {250 / self.rate_hz:g}"
            )
        return self


class IntrinsicsConfig(Settings):
    fx: PositiveFloat
    fy: PositiveFloat
    cx: float
    cy: float
    projection: Projection = Projection.PINHOLE
    distortion: tuple[float, ...] = ()
    """In OpenCV's order: k1 k2 p1 p2 [k3 ...], or k1..k4 for kannala_brandt."""
    xi: Annotated[float, Field(ge=0, le=5)] = 0.0


class CameraConfig(Settings):
    type: Literal["camera"]
    name: Annotated[str, Field(min_length=1)]
    mount: MountConfig
    timing: TimingConfig
    width_px: Annotated[int, Field(ge=16, le=8192)]
    height_px: Annotated[int, Field(ge=16, le=8192)]
    intrinsics: IntrinsicsConfig
    readout_ms: Milliseconds = 0.0
    """Time from the first row to the last (rolling shutter); the capture time is the middle row's."""
    exposure_ms: Milliseconds = 0.0
    """Shutter time, for motion blur; 0 leaves it out."""
    edge_rays: Annotated[int, Field(ge=0, le=4)] = 2
    """Further rays through pixels at edges, so that edges are smooth; 0 blends edges with what is beside them."""
    jpeg_quality: Annotated[int, Field(ge=10, le=100)] = 90

    @property
    def camera(self) -> CameraModel:
        k = self.intrinsics
        return CameraModel(
            width_px=self.width_px,
            height_px=self.height_px,
            intrinsic=np.array([[k.fx, 0.0, k.cx], [0.0, k.fy, k.cy], [0.0, 0.0, 1.0]]),
            projection=k.projection,
            distortion=np.array(k.distortion, dtype=np.float64),
            xi=k.xi,
        )

    @property
    def ego_SE3_sensor(self) -> F64:
        return self.mount.ego_SE3_body @ se3(OPTICAL_AXES)

    @model_validator(mode="after")
    def _check(self) -> "CameraConfig":
        k = self.intrinsics
        if not (0 <= k.cx <= self.width_px and 0 <= k.cy <= self.height_px):
            raise ValueError(
                f"intrinsics.cx, cy ({k.cx}, {k.cy}) lie outside the image of {self.width_px}x{self.height_px} pixels"
            )
        _check_projection(self.camera)
        return self


class LidarConfig(Settings):
    type: Literal["lidar"]
    name: Annotated[str, Field(min_length=1)]
    mount: MountConfig
    timing: TimingConfig
    beams: Literal[32, 64, 128]
    columns: Annotated[int, Field(ge=16, le=8192)]
    """Firings in one turn."""
    start_azimuth_deg: Degrees = 180.0
    """Where a turn begins, in the lidar's own frame."""
    is_clockwise: bool = True
    min_range_m: PositiveFloat = 0.9
    max_range_m: Annotated[float, Field(gt=0, le=400)] = 100.0
    diffuse_range_m: PositiveFloat = 200.0
    """Where a wall of reflectivity 0.5 that faces the lidar is seen half the time."""
    range_noise_m: Annotated[float, Field(ge=0, le=1)] = 0.02
    drop_share: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Returns lost for no visible reason."""
    intensity_gamma: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Intensities are reported as the returned share to this power; below 1 dark surfaces are lifted."""

    @property
    def ego_SE3_sensor(self) -> F64:
        return self.mount.ego_SE3_body

    @model_validator(mode="after")
    def _check(self) -> "LidarConfig":
        if self.min_range_m >= self.max_range_m:
            raise ValueError(f"min_range_m {self.min_range_m} must be below max_range_m {self.max_range_m}")
        return self


class RadarConfig(Settings):
    type: Literal["radar"]
    name: Annotated[str, Field(min_length=1)]
    mount: MountConfig
    timing: TimingConfig
    field_of_view_deg: Annotated[float, Field(gt=1, le=180)] = 120.0
    max_range_m: Annotated[float, Field(gt=1, le=400)] = 250.0
    range_cell_m: PositiveFloat = 0.4
    azimuth_cell_deg: PositiveFloat = 3.2
    speed_cell_mps: PositiveFloat = 0.4
    range_noise_m: Annotated[float, Field(ge=0)] = 0.10
    azimuth_noise_deg: Annotated[float, Field(ge=0)] = 0.4
    speed_noise_mps: Annotated[float, Field(ge=0)] = 0.08
    sensitivity_dbsm: float = -5.0
    """Smallest cross section that is seen half the time at 50 m."""
    has_elevation: bool = False
    compensates: bool = True
    """Whether it also reports range rates over ground."""
    clutter_per_scan: Annotated[float, Field(ge=0, le=100)] = 4.0
    ghost_share: Annotated[float, Field(ge=0, le=1)] = 0.06
    miss_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    max_returns: PositiveInt = 125

    @property
    def ego_SE3_sensor(self) -> F64:
        return self.mount.ego_SE3_body


SensorConfig = Annotated[CameraConfig | LidarConfig | RadarConfig, Field(discriminator="type")]


class EgoConfig(Settings):
    """The ego's own measurements: slow errors of a fused GNSS and IMU, and white noise on its rates."""

    timing: TimingConfig = TimingConfig(rate_hz=100.0, delay_ms=2.0, delay_jitter_ms=0.3)
    position_error_m: Annotated[float, Field(ge=0)] = 0.05
    heading_error_deg: Annotated[float, Field(ge=0)] = 0.1
    speed_noise_mps: Annotated[float, Field(ge=0)] = 0.03
    yaw_rate_noise_radps: Annotated[float, Field(ge=0)] = 0.002


class RigSpec(Settings):
    """A vehicle's sensors. `sensor_rig` is what messages refer to."""

    description: str = ""
    ego: EgoConfig = EgoConfig()
    route: TimingConfig = TimingConfig(rate_hz=10.0, delay_ms=5.0)
    sensors: Annotated[tuple[SensorConfig, ...], Field(min_length=1)]

    @property
    def sensor_rig(self) -> SensorRig:
        """Offsets are from the first lidar, for sensors that keep its pace; others have none that is fixed."""
        lidar = next((s for s in self.sensors if isinstance(s, LidarConfig)), None)
        return SensorRig(sensors=tuple(_sensor(s, lidar) for s in self.sensors))

    @model_validator(mode="after")
    def _check(self) -> "RigSpec":
        names = [sensor.name for sensor in self.sensors]
        for name in names:
            if names.count(name) > 1 or name in (EGO_SENSOR, ROUTE_SENSOR):
                raise ValueError(f"sensors: the name {name!r} is taken; names must differ, and from ego and route")
        cameras = sum(isinstance(sensor, CameraConfig) for sensor in self.sensors)
        if cameras > MAX_CAMERAS:
            raise ValueError(f"sensors: {cameras} cameras, at most {MAX_CAMERAS} are supported")
        return self


def without_cameras(spec: RigSpec) -> RigSpec:
    """Raises ConfigError where a rig has nothing but cameras."""
    others = tuple(sensor for sensor in spec.sensors if not isinstance(sensor, CameraConfig))
    if not others:
        raise ConfigError("cameras: false leaves this rig without any sensor; choose a rig that has others")
    return spec.model_copy(update={"sensors": others})


def load_rig(name_or_path: str) -> RigSpec:
    """A shipped rig (`configs/rigs/*.yaml`) by name, or one by path.

    Raises ConfigError that names the file, the field and what is allowed there; an unknown name lists the shipped ones.
    """
    return load_settings(RigSpec, Path(find_config("rigs", name_or_path)))


def _sensor(config: CameraConfig | LidarConfig | RadarConfig, reference: LidarConfig | None) -> Sensor:
    offset = 0
    if reference is not None and reference.timing.rate_hz == config.timing.rate_hz:
        period = 1e9 / config.timing.rate_hz
        late = (config.timing.phase_ms - reference.timing.phase_ms) * 1e6
        offset = round((late + period / 2) % period - period / 2)
    return Sensor(
        name=config.name,
        modality=Modality(config.type),
        ego_SE3_sensor=config.ego_SE3_sensor,
        frequency_hz=config.timing.rate_hz,
        offset_ns=offset,
        camera=config.camera if isinstance(config, CameraConfig) else None,
    )


def _check_projection(camera: CameraModel) -> None:
    """Raise ValueError where fewer than half the pixels have a view ray that projects back onto them."""
    u, v = np.meshgrid(np.linspace(0, camera.width_px - 1, 21), np.linspace(0, camera.height_px - 1, 21))
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)
    back, is_visible = camera.project(camera.rays(pixels))
    share = float(np.mean(is_visible & (np.linalg.norm(back - pixels, axis=1) < 0.5)))
    if share < 0.5:
        raise ValueError(
            f"impossible calibration: only {share:.0%} of the pixels have a view ray that projects back onto them; "
            "check intrinsics.distortion, xi and the focal lengths"
        )


def _about(axis: int, angle_rad: float) -> F64:
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[i, i] = rotation[j, j] = cos
    rotation[i, j], rotation[j, i] = -sin, sin
    return rotation
