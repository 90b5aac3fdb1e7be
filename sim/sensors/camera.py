"""The simulated camera: casts a ray for each pixel and more at edges, and publishes JPEG like a real one."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.messages import CameraFrame
from sim.rig import CameraConfig
from sim.scene import SceneView
from sim.sensors.film import Film, encode_jpeg
from sim.sensors.render import DOME, Moment, Renderer, Sight
from sim.sensors.scene_caster import Rays
from sim.sensors.tracks import ego_poses, knots_over

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

_BLOCK: Final = 8
_EDGE_OFFSETS: Final = ((-0.27, -0.27), (0.27, 0.27))
"""Where in an edge pixel further rays go, beside the one through its middle."""
_SHUTTER_SAMPLES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraShot:
    """One image with its truth. image: (H, W, 3) uint8 blue, green, red. depth_m: (H, W) float32 along the ray, inf: sky.

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
        self._height, self._width = config.height_px, config.width_px
        v, u = (grid.ravel() for grid in np.mgrid[: self._height, : self._width])
        self._order = np.lexsort((u % _BLOCK, v % _BLOCK, u // _BLOCK, v // _BLOCK))
        u, v = u[self._order], v[self._order]
        self._place = v * self._width + u
        self._row = v
        self._pattern = (v % 4) * 4 + u % 4
        pixels = np.stack([u, v], axis=1).astype(np.float64)
        offsets = ((0.0, 0.0), *_EDGE_OFFSETS)
        self._rays = [np.ascontiguousarray(self._camera.rays(pixels + o).T.astype(np.float32)) for o in offsets]
        self._pixel_rad = 1.0 / float(self._camera.intrinsic[0, 0])
        self._shade = self._vignette(pixels)
        self._film = Film((self._height, self._width), renderer.weather, renderer.sky.daylight.exposure, rng)

    def capture(self, scene: SceneView, capture_ns: int, arrival_ns: int, rng: np.random.Generator) -> CameraFrame:
        shot = self.shoot(scene, capture_ns, rng)
        data = encode_jpeg(shot.image, self._config.jpeg_quality)
        return CameraFrame(sensor=self._config.name, capture_ns=capture_ns, arrival_ns=arrival_ns, data=data)

    def shoot(self, scene: SceneView, capture_ns: int, rng: np.random.Generator) -> CameraShot:
        """Image and truth at `capture_ns`, the middle of the exposure."""
        light, sight, moment = self._expose(scene, capture_ns)
        exposure_ns = round(self._config.exposure_ms * 1e6)
        if exposure_ns:
            for i in range(_SHUTTER_SAMPLES):
                shift = round(exposure_ns * ((i + 0.5) / _SHUTTER_SAMPLES - 0.5))
                light += self._expose(scene, capture_ns + shift)[0]
            light /= _SHUTTER_SAMPLES + 1
        depth, actor = (np.empty(self._height * self._width, dtype=dtype) for dtype in (np.float32, np.int32))
        depth[self._place], actor[self._place] = sight.hits.distance_m, sight.hits.actor
        return CameraShot(
            image=self._film.develop(self._to_image(light * self._shade), rng),
            depth_m=depth.reshape(self._height, self._width),
            actor=actor.reshape(self._height, self._width),
            actor_id=moment.tracks.states.actor_id,
            crossed=sight.hits.crossed,
            seen=sight.hits.seen(),
        )

    def _expose(self, scene: SceneView, time_ns: int) -> tuple[F32, Sight, Moment]:
        """Radiance (3, N) in block order, what the middle rays saw, and when."""
        half = round(self._config.readout_ms * 0.5e6)
        knots = knots_over(time_ns - half, time_ns + half)
        moment = self._renderer.moment(scene, time_ns, knots)
        every = np.arange(len(self._row))
        poses = ego_poses(scene, knots, self._row_times(time_ns)) @ self._ego_SE3_sensor
        sight = self._renderer.look(self._aim(0, every, poses, time_ns), moment, self._pixel_rad)
        open_sky = np.ones(len(every), dtype=np.float32)
        open_sky[sight.rows] = self._renderer.open_sky(sight, moment, self._pattern[sight.rows])
        open_sky = self._soften(open_sky)
        light = self._renderer.radiance(sight, moment, open_sky[sight.rows])
        edge = np.flatnonzero(self._edges(sight))
        if len(edge):
            total = light[:, edge]
            for i in range(1, len(self._rays)):
                extra = self._renderer.look(self._aim(i, edge, poses, time_ns), moment, self._pixel_rad)
                total += self._renderer.radiance(extra, moment, open_sky[edge][extra.rows])
            light[:, edge] = total / len(self._rays)
        return light, sight, moment

    def _row_times(self, time_ns: int) -> I64:
        """When each row is read (H,), or the one time of a global shutter (1,)."""
        if not self._config.readout_ms:
            return np.array([time_ns], dtype=np.int64)
        share = (np.arange(self._height) + 0.5) / self._height - 0.5
        return time_ns + np.round(share * self._config.readout_ms * 1e6).astype(np.int64)

    def _aim(self, offset: int, pixels: I64, poses: F64, time_ns: int) -> Rays:
        """Rays in the world of pixels (block order); poses: world_SE3_camera of each row, or of all."""
        rays = self._rays[offset][:, pixels]
        if len(poses) == 1:
            return Rays(origin_m=poses[0, :3, 3:], direction=poses[0, :3, :3].astype(np.float32) @ rays)
        row = self._row[pixels]
        direction = np.einsum("nij,jn->in", poses[:, :3, :3].astype(np.float32)[row], rays)
        return Rays(origin_m=poses[row, :3, 3].T, direction=direction, time_ns=self._row_times(time_ns)[row])

    def _edges(self, sight: Sight) -> Bool:
        """True for pixels (N,), in block order, whose neighbour right or below shows another face."""
        face = self._renderer.faces(sight.hits)
        image = np.empty(len(face), dtype=np.int64)
        image[self._place] = face
        image = image.reshape(self._height, self._width)
        is_edge = np.zeros(image.shape, dtype=bool)
        is_edge[:, 1:] |= image[:, 1:] != image[:, :-1]
        is_edge[1:] |= image[1:] != image[:-1]
        picked: Bool = is_edge.ravel()[self._place]
        return picked

    def _soften(self, open_sky: F32) -> F32:
        """The 16 directions of a 4x4 block together make the share of the sky: average over such a block."""
        image = np.empty(len(open_sky), dtype=np.float32)
        image[self._place] = open_sky
        side = round(DOME**0.5)
        smooth = cv2.blur(image.reshape(self._height, self._width), (side, side)).ravel()
        return np.asarray(smooth[self._place], dtype=np.float32)

    def _to_image(self, light: F32) -> F32:
        image = np.empty((self._height * self._width, 3), dtype=np.float32)
        image[self._place] = light.T
        return image.reshape(self._height, self._width, 3)

    def _vignette(self, pixels: F64) -> F32:
        """Share of light (N,) that the lens lets through; none where a pixel sees past its edge."""
        rays = self._rays[0].T.astype(np.float64)
        back, is_visible = self._camera.project(rays)
        is_real = is_visible & (np.linalg.norm(back - pixels, axis=1) < 0.5)
        off = np.arccos(np.clip(rays[:, 2], -1, 1))
        return np.where(is_real, 1.0 - 0.25 * np.minimum(off, 1.4) ** 2, 0.0).astype(np.float32)


