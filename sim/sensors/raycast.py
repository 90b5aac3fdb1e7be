"""Casting rays into triangles: one small interface, Embree behind it by way of Open3D or embreex.

Rays are (N, 6) float32: origin, unit direction. A ray caster never changes after it was built and may be used from
several threads.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import ConfigError
from perception.core.open3d_loader import load_open3d

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]
Bool = NDArray[np.bool_]

NO_HIT: Final = -1


class RayCaster(Protocol):
    """Triangles that rays can hit."""

    def nearest(self, rays: F32) -> tuple[F32, I32]:
        """Distance (N,) to the first triangle along each ray, inf where there is none, and its row (N,), -1 if none."""
        ...

    def is_blocked(self, rays: F32) -> Bool:
        """True (N,) where a ray hits anything at all; cheaper than `nearest`."""
        ...


RayCasterFactory = Callable[[F32, U32], RayCaster]


class Open3DCaster:
    """Embree 4 through Open3D's RaycastingScene, one thread a call: callers run sensors side by side."""

    def __init__(self, vertices_m: F32, triangles: U32) -> None:
        self._open3d = load_open3d()
        self._scene = self._open3d.t.geometry.RaycastingScene(nthreads=1)
        self._is_empty = len(triangles) == 0
        if not self._is_empty:
            self._scene.add_triangles(self._tensor(vertices_m, np.float32), self._tensor(triangles, np.uint32))

    def nearest(self, rays: F32) -> tuple[F32, I32]:
        if self._is_empty or len(rays) == 0:
            return _nothing(len(rays))
        answer = self._scene.cast_rays(self._tensor(rays, np.float32), nthreads=1)
        # Open3D marks a miss by 2**32 - 1, which is -1 in two's complement.
        return answer["t_hit"].numpy(), answer["primitive_ids"].numpy().view(np.int32)

    def is_blocked(self, rays: F32) -> Bool:
        if self._is_empty or len(rays) == 0:
            return np.zeros(len(rays), dtype=bool)
        blocked: Bool = self._scene.test_occlusions(self._tensor(rays, np.float32), nthreads=1).numpy()
        return blocked

    def _tensor(self, array: NDArray[Any], dtype: type[np.generic]) -> Any:
        return self._open3d.core.Tensor.from_numpy(np.ascontiguousarray(array, dtype=dtype))


class EmbreexCaster:
    """Embree through embreex, 14 MB instead of Open3D's 100: for machines where Open3D cannot go."""

    def __init__(self, vertices_m: F32, triangles: U32) -> None:
        self._scene = importlib.import_module("embreex.rtcore_scene").EmbreeScene()
        self._is_empty = len(triangles) == 0
        if not self._is_empty:
            mesh = importlib.import_module("embreex.mesh_construction").TriangleMesh
            self._mesh = mesh(self._scene, np.ascontiguousarray(vertices_m), triangles.astype(np.int32))

    def nearest(self, rays: F32) -> tuple[F32, I32]:
        if self._is_empty or len(rays) == 0:
            return _nothing(len(rays))
        origins, directions = np.ascontiguousarray(rays[:, :3]), np.ascontiguousarray(rays[:, 3:])
        answer = self._scene.run(origins, directions, query="INTERSECT", output=True)
        triangle: I32 = answer["primID"]
        distance: F32 = np.where(triangle >= 0, answer["tfar"], np.float32(np.inf))
        return distance, triangle

    def is_blocked(self, rays: F32) -> Bool:
        return np.isfinite(self.nearest(rays)[0])


RAY_CASTERS: Final[dict[str, RayCasterFactory]] = {"open3d": Open3DCaster, "embreex": EmbreexCaster}


def ray_caster_factory(name: str = "auto") -> RayCasterFactory:
    """The ray caster of that name; `auto` takes Open3D, or embreex where Open3D cannot be imported.

    Raises ConfigError on an unknown name and where none can be imported.
    """
    if name == "auto":
        try:
            load_open3d()
        except ConfigError:
            if importlib.util.find_spec("embreex") is None:
                raise
            return EmbreexCaster
        return Open3DCaster
    if name not in RAY_CASTERS:
        raise ConfigError(f"unknown ray caster {name!r}; known: auto, {', '.join(RAY_CASTERS)}")
    return RAY_CASTERS[name]


def _nothing(n: int) -> tuple[F32, I32]:
    return np.full(n, np.inf, dtype=np.float32), np.full(n, NO_HIT, dtype=np.int32)
