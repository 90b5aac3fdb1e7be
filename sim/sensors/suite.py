"""All sensors of a rig in one world: renders events into messages, side by side where there are several."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np

from perception.core.errors import ConfigError
from perception.core.messages import EGO_SENSOR, CameraFrame, EgoState, LidarSweep, RadarScan
from sim.rig import CameraConfig, LidarConfig, RigSpec
from sim.scene import SceneView
from sim.sensors.camera import CameraSensor
from sim.sensors.ego import EgoSensor
from sim.sensors.lidar import LidarSensor
from sim.sensors.radar import RadarSensor
from sim.sensors.raycast import ray_caster_factory
from sim.sensors.render import Renderer
from sim.sensors.scene_caster import SceneCaster
from sim.sensors.schedule import Event, event_rng
from sim.weather import Weather

AnySensor = CameraSensor | LidarSensor | RadarSensor | EgoSensor
Captured = CameraFrame | LidarSweep | RadarScan | EgoState


class SensorSuite:
    """Renders what the sensors of `rig` see in `scene`. The scene must allow reading from several threads.

    Raises ConfigError where no ray caster can be loaded. Close it, or use it in a `with` block.
    """

    def __init__(
        self,
        rig: RigSpec,
        scene: SceneView,
        weather: Weather,
        seed: int,
        *,
        threads: int = 2,
        ray_caster: str = "auto",
    ) -> None:
        self._scene = scene
        self._seed = seed
        self.caster = SceneCaster(scene, ray_caster_factory(ray_caster))
        self._renderer = Renderer(scene, self.caster, weather, seed)
        self._sensors: dict[str, AnySensor] = {EGO_SENSOR: EgoSensor(rig.ego, self._rng(EGO_SENSOR))}
        for config in rig.sensors:
            if isinstance(config, CameraConfig):
                self._sensors[config.name] = CameraSensor(config, self._renderer, self._rng(config.name))
            elif isinstance(config, LidarConfig):
                self._sensors[config.name] = LidarSensor(config, self.caster, weather)
            else:
                self._sensors[config.name] = RadarSensor(config, self.caster)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="sensor")

    def __enter__(self) -> "SensorSuite":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, sensor: str) -> AnySensor:
        """One sensor, for its truth (`shoot`). Raises ConfigError on a name that the rig does not have."""
        if sensor not in self._sensors:
            raise ConfigError(f"no sensor {sensor!r} in the rig; it has {', '.join(self._sensors)}")
        return self._sensors[sensor]

    def capture(self, event: Event) -> Captured:
        """The message of one event (not of `route`, which no sensor makes)."""
        rng = event_rng(self._seed, event.sensor, event.sequence)
        return self[event.sensor].capture(self._scene, event.capture_ns, event.arrival_ns, rng)

    def capture_all(self, events: Sequence[Event]) -> list[Captured]:
        """Messages of several events, in their order, rendered by all threads."""
        return list(self._pool.map(self.capture, events))

    def close(self) -> None:
        self._pool.shutdown()

    def _rng(self, sensor: str) -> np.random.Generator:
        return event_rng(self._seed, sensor, -1 & 0xFFFFFFFF)
