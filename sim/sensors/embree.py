"""Embree by its own library, in packets of 16 rays and beside other threads.

The library is the one that comes with the `embreex` package. Open3D casts ray by ray and holds Python's interpreter
lock meanwhile; packets of neighbouring rays are several times as fast, and sensors are rendered side by side.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import ConfigError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]
Bool = NDArray[np.bool_]

PACKET: Final = 16
_ROBUST: Final = 4
_TRIANGLES, _INDEX, _VERTEX = 0, 0, 1
_FLOAT3: Final = 0x9003
_UINT3: Final = 0x5003
_LINE: Final = 64
_NO_ID: Final = 0xFFFFFFFF
_COHERENT: Final = 1 << 16

_ROWS: Final = 28
"""Rows of 16 numbers in Embree's RTCRayHit16 (rtcore_ray.h): origin, near, direction, time, far, mask, id, flags;
normal, u, v, triangle, geometry, instances; and some to spare."""
_NEAR, _DIRECTION, _FAR, _MASK, _FLAGS, _TRIANGLE, _GEOMETRY = 3, 4, 8, 9, 11, 17, 18


class EmbreeCaster:
    """Triangles in an Embree scene of their own."""

    def __init__(self, vertices_m: F32, triangles: U32) -> None:
        library = _library()
        self._is_empty = len(triangles) == 0
        self._scene = library.rtcNewScene(_device(library))
        library.rtcSetSceneFlags(self._scene, _ROBUST)
        if not self._is_empty:
            _attach(library, self._scene, vertices_m, triangles)
        library.rtcCommitScene(self._scene)
        self._release = library.rtcReleaseScene
        self._intersect, self._occluded = _loops(library)

    def __del__(self) -> None:
        if hasattr(self, "_release"):
            self._release(self._scene)

    def nearest(self, rays: F32) -> tuple[F32, I32]:
        distance, triangle = np.full(len(rays), np.inf, dtype=np.float32), np.full(len(rays), -1, dtype=np.int32)
        if not self._is_empty and len(rays):
            self._intersect(self._scene, np.ascontiguousarray(rays), *_scratch(), distance, triangle)
        return distance, triangle

    def is_blocked(self, rays: F32) -> Bool:
        blocked = np.zeros(len(rays), dtype=np.bool_)
        if not self._is_empty and len(rays):
            self._occluded(self._scene, np.ascontiguousarray(rays), *_scratch(), blocked)
        return blocked


def find_library() -> Path | None:
    """Embree's library in the `embreex` package, None where that is not installed."""
    spec = importlib.util.find_spec("embreex")
    if spec is None or spec.origin is None:
        return None
    beside = Path(spec.origin).parent.parent / "embreex.libs"
    return next(iter(sorted(beside.glob("libembree4*.so*"))), None)


@cache
def _library() -> Any:
    """The library, once for the process."""
    path = find_library()
    if path is None:
        raise ConfigError("Embree's library is not installed; run `pip install embreex`")
    for helper in sorted(path.parent.glob("libtbb*.so*")):
        ctypes.CDLL(str(helper), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path))
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint
    for name, result, arguments in (
        ("rtcNewDevice", pointer, [ctypes.c_char_p]),
        ("rtcNewScene", pointer, [pointer]),
        ("rtcSetSceneFlags", None, [pointer, ctypes.c_int]),
        ("rtcCommitScene", None, [pointer]),
        ("rtcReleaseScene", None, [pointer]),
        ("rtcNewGeometry", pointer, [pointer, ctypes.c_int]),
        ("rtcSetNewGeometryBuffer", pointer, [pointer, ctypes.c_int, number, ctypes.c_int, size, size]),
        ("rtcCommitGeometry", None, [pointer]),
        ("rtcAttachGeometry", number, [pointer, pointer]),
        ("rtcReleaseGeometry", None, [pointer]),
        ("rtcIntersect16", None, [pointer] * 4),
        ("rtcOccluded16", None, [pointer] * 4),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def _device(library: Any) -> int:
    device: int = library.rtcNewDevice(b"threads=1,set_affinity=0")
    return device


def _attach(library: Any, scene: int, vertices_m: F32, triangles: U32) -> None:
    geometry = library.rtcNewGeometry(_device(library), _TRIANGLES)
    for kind, form, values, dtype in (
        (_VERTEX, _FLOAT3, vertices_m, np.float32),
        (_INDEX, _UINT3, triangles, np.uint32),
    ):
        packed = np.ascontiguousarray(values, dtype=dtype)
        buffer = library.rtcSetNewGeometryBuffer(geometry, kind, 0, form, 12, len(packed))
        ctypes.memmove(buffer, packed.ctypes.data, packed.nbytes)
    library.rtcCommitGeometry(geometry)
    library.rtcAttachGeometry(scene, geometry)
    library.rtcReleaseGeometry(geometry)


def _scratch() -> tuple[F32, I32, U32]:
    """Room for one packet, for which of its rays count, and Embree's RTCIntersectArguments: neighbours fly together."""
    packet, valid, arguments = _aligned(_ROWS * PACKET), _aligned(PACKET), _aligned(PACKET)
    arguments[:2] = _COHERENT, _NO_ID  # flags; all features
    return packet.view(np.float32).reshape(_ROWS, PACKET), valid.view(np.int32), arguments


def _aligned(words: int) -> U32:
    raw = np.zeros(words * 4 + _LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + words * 4].view(np.uint32)


@cache
def _loops(library: Any) -> tuple[Callable[..., None], Callable[..., None]]:
    """Loops over packets, compiled with the addresses of this process's Embree (so they are not kept on disk)."""
    intersect, occluded = library.rtcIntersect16, library.rtcOccluded16

    @numba.njit(nogil=True)
    def load(rays: F32, first: int, packet: F32, valid: I32) -> int:
        count = min(PACKET, len(rays) - first)
        bits = packet.view(np.uint32)
        for k in range(PACKET):
            valid[k] = -1 if k < count else 0
            i = first + min(k, count - 1)
            for axis in range(3):
                packet[axis, k] = rays[i, axis]
                packet[_DIRECTION + axis, k] = rays[i, 3 + axis]
            packet[_NEAR, k], packet[_DIRECTION + 3, k], packet[_FAR, k] = 0.0, 0.0, np.inf
            bits[_MASK, k], bits[_FLAGS, k], bits[_GEOMETRY, k] = _NO_ID, 0, _NO_ID
        return count

    @numba.njit(nogil=True)
    def nearest(scene: int, rays: F32, packet: F32, valid: I32, how: U32, distance: F32, triangle: I32) -> None:
        bits = packet.view(np.uint32)
        for first in range(0, len(rays), PACKET):
            count = load(rays, first, packet, valid)
            intersect(valid.ctypes.data, scene, packet.ctypes.data, how.ctypes.data)
            for k in range(count):
                if bits[_GEOMETRY, k] != _NO_ID:
                    distance[first + k] = packet[_FAR, k]
                    triangle[first + k] = np.int32(bits[_TRIANGLE, k])

    @numba.njit(nogil=True)
    def blocked(scene: int, rays: F32, packet: F32, valid: I32, how: U32, is_blocked: Bool) -> None:
        for first in range(0, len(rays), PACKET):
            count = load(rays, first, packet, valid)
            occluded(valid.ctypes.data, scene, packet.ctypes.data, how.ctypes.data)
            for k in range(count):
                is_blocked[first + k] = packet[_FAR, k] < 0

    return nearest, blocked
