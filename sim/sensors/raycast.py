"""Casting rays into triangles: one small interface, Embree behind it by its own library or by way of Open3D.

Rays are (N, 6) float32: origin, unit direction. A ray caster never changes after it was built and may be used from
several threads.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import ConfigError
from perception.core.open3d_loader import load_open3d
from sim.sensors.embree import EmbreeCaster, find_library

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
    """Embree 4 through Open3D's RaycastingScene, one thread a call."""

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


RAY_CASTERS: Final[dict[str, RayCasterFactory]] = {"embree": EmbreeCaster, "open3d": Open3DCaster}


def ray_caster_factory(name: str = "auto") -> RayCasterFactory:
    """The ray caster of that name; `auto` takes Embree's own library, or Open3D where that is not installed.

    Raises ConfigError on an unknown name and where none can be loaded.
    """
    if name == "auto":
        if find_library() is not None:
            return EmbreeCaster
        load_open3d()
        return Open3DCaster
    if name not in RAY_CASTERS:
        raise ConfigError(f"unknown ray caster {name!r}; known: auto, {', '.join(RAY_CASTERS)}")
    return RAY_CASTERS[name]


def _nothing(n: int) -> tuple[F32, I32]:
    return np.full(n, np.inf, dtype=np.float32), np.full(n, NO_HIT, dtype=np.int32)
