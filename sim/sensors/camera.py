"""The simulated camera: casts a ray for each pixel and more at edges, and publishes JPEG like a real one."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import CameraFrame
from sim.rig import CameraConfig
from sim.scene import SceneView
from sim.sensors.film import Film, encode_jpeg
from sim.sensors.render import Moment, Renderer, Sight
from sim.sensors.scene_caster import Rays
from sim.sensors.screen import Screen
from sim.sensors.tracks import ego_poses, knots_over

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

_EDGE_OFFSETS: Final = ((0.30, 0.30), (-0.30, -0.30), (0.30, -0.30), (-0.30, 0.30))
"""Where in an edge pixel further rays go, beside the one through its middle."""
_SHUTTER_SAMPLES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraShot:
    """One image with its truth. image: (H, W, 3) uint8 blue, green, red. depth_m: (H, W) float32 along rays, inf: sky.

    actor: (H, W) int32, row in `actor_id` of what each pixel shows, -1 for scenery and sky. actor_id: (K,) int64.
    crossed, seen: (K,) int64 pixels that each actor would cover with nothing before it, and those that it does.
    """

    image: U8
    depth_m: F32
    actor: I32
    actor_id: I64
    crossed: I64
    seen: I64


class CameraSensor:
    """One camera of the rig in one world."""

    def __init__(self, config: CameraConfig, renderer: Renderer, rng: np.random.Generator) -> None:
        self._config = config
        self._renderer = renderer
        self._camera = config.camera
        self._ego_SE3_sensor = config.ego_SE3_sensor
        self._screen = Screen(config.height_px, config.width_px)
        pixels = np.stack([self._screen.column, self._screen.row], axis=1).astype(np.float64)
        self._rays = self._camera.rays(pixels).T.astype(np.float32, order="C")
        offsets = _EDGE_OFFSETS[: config.edge_rays]
        edge_rays = [self._camera.rays(pixels + offset).T.astype(np.float32) for offset in offsets]
        self._edge_rays = np.array(edge_rays).reshape(-1, 3, len(pixels))
        self._pixel_rad = 1.0 / float(self._camera.intrinsic[0, 0])
        self._vignette = self._light_share(pixels)
        self._film = Film(self._screen.shape, renderer.weather, renderer.sky.daylight.exposure, rng)

    def capture(self, scene: SceneView, capture_ns: int, arrival_ns: int, rng: np.random.Generator) -> CameraFrame:
        """The frame whose exposure has its middle at `capture_ns`."""
        light, _, _ = self._open_shutter(scene, capture_ns, counts_hidden=False)
        data = encode_jpeg(self._film.develop(self._screen.to_image(light), rng), self._config.jpeg_quality)
        return CameraFrame(sensor=self._config.name, capture_ns=capture_ns, arrival_ns=arrival_ns, data=data)

    def shoot(self, scene: SceneView, capture_ns: int, rng: np.random.Generator) -> CameraShot:
        """The same image before compression, with its truth."""
        light, sight, moment = self._open_shutter(scene, capture_ns, counts_hidden=True)
        return CameraShot(
            image=self._film.develop(self._screen.to_image(light), rng),
            depth_m=self._screen.to_image(sight.hits.distance_m),
            actor=self._screen.to_image(sight.hits.actor),
            actor_id=moment.tracks.states.actor_id,
            crossed=sight.hits.crossed,
            seen=sight.hits.seen(),
        )

    def _open_shutter(self, scene: SceneView, capture_ns: int, counts_hidden: bool) -> tuple[F32, Sight, Moment]:
        """Light (3, N) on the film, what the middle rays saw, and when; motion blur is a mean over the exposure."""
        light, sight, moment = self._expose(scene, capture_ns, counts_hidden)
        exposure_ns = round(self._config.exposure_ms * 1e6)
        if exposure_ns:
            for i in range(_SHUTTER_SAMPLES):
                shift = round(exposure_ns * ((i + 0.5) / _SHUTTER_SAMPLES - 0.5))
                light += self._expose(scene, capture_ns + shift, counts_hidden=False)[0]
            light /= _SHUTTER_SAMPLES + 1
        return light * self._vignette, sight, moment

    def _expose(self, scene: SceneView, time_ns: int, counts_hidden: bool) -> tuple[F32, Sight, Moment]:
        renderer, screen = self._renderer, self._screen
        half = round(self._config.readout_ms * 0.5e6)
        knots = knots_over(time_ns - half, time_ns + half)
        moment = renderer.moment(scene, time_ns, knots)
        poses = ego_poses(scene, knots, self._row_times(time_ns)) @ self._ego_SE3_sensor
        rays = self._aim(self._rays, screen.row, poses, time_ns)
        scenery = screen.cast_scenery(rays, renderer.caster)
        sight = renderer.look(rays, moment, self._pixel_rad, scenery=scenery, counts_hidden=counts_hidden)
        face = renderer.faces(sight.hits)
        sunlit = screen.sunlit(sight, face, renderer, moment)
        open_sky = screen.open_sky(sight, renderer, moment)
        light = renderer.radiance(sight, moment, sunlit[sight.rows], open_sky[sight.rows])
        edge = screen.edges(face, light)
        if not len(self._edge_rays):
            light[:, edge] = screen.blend(edge, light)
        elif len(edge):
            added = self._around(edge, face, sunlit, open_sky, poses, moment, time_ns)
            light[:, edge] = (light[:, edge] + added) / (len(self._edge_rays) + 1)
        return light, sight, moment

    def _around(
        self, edge: I64, face: I64, sunlit: F32, open_sky: F32, poses: F64, moment: Moment, time_ns: int
    ) -> F32:
        """Sum of light (3, E) along the further rays of edge pixels (E,)."""
        more = len(self._edge_rays)
        # Rays of one pixel go side by side: they mostly meet the same things.
        pixel = np.repeat(edge, more)
        aims = self._edge_rays[:, :, edge].transpose(1, 2, 0).reshape(3, -1)
        rays = self._aim(aims, self._screen.row[pixel], poses, time_ns)
        sight = self._renderer.look(rays, moment, self._pixel_rad)
        lit = sunlit[pixel[sight.rows]]
        if not self._renderer.is_ambient:
            other = np.flatnonzero((self._renderer.faces(sight.hits) != face[pixel])[sight.rows])
            lit[other] = self._renderer.sunlit(sight, other, moment)
        light = self._renderer.radiance(sight, moment, lit, open_sky[pixel[sight.rows]])
        total: F32 = light.reshape(3, -1, more).sum(axis=2)
        return total

    def _row_times(self, time_ns: int) -> I64:
        """When each row is read (H,), or the one time of a global shutter (1,)."""
        if not self._config.readout_ms:
            return np.array([time_ns], dtype=np.int64)
        height = self._config.height_px
        share = (np.arange(height) + 0.5) / height - 0.5
        return time_ns + np.round(share * self._config.readout_ms * 1e6).astype(np.int64)

    def _aim(self, rays: F32, row: I64, poses: F64, time_ns: int) -> Rays:
        """Rays (3, N) of image rows (N,) in the world; poses: world_SE3_camera of each row, or of all."""
        if len(poses) == 1:
            return Rays(origin_m=poses[0, :3, 3:], direction=poses[0, :3, :3].astype(np.float32) @ rays)
        direction = np.einsum("nij,jn->in", poses[:, :3, :3].astype(np.float32)[row], rays)
        return Rays(origin_m=poses[row, :3, 3].T, direction=direction, time_ns=self._row_times(time_ns)[row])

    def _light_share(self, pixels: F64) -> F32:
        """Share of light (N,) that the lens lets through; none where a pixel sees past its edge."""
        rays = self._rays.T.astype(np.float64)
        back, is_visible = self._camera.project(rays)
        is_real = is_visible & (np.linalg.norm(back - pixels, axis=1) < 0.5)
        off = np.arccos(np.clip(rays[:, 2], -1, 1))
        return np.where(is_real, 1.0 - 0.25 * np.minimum(off, 1.4) ** 2, 0.0).astype(np.float32)
