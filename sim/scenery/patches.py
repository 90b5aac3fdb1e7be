"""Pieces of scenery: strips, polygons, quads and copies of prototypes, gathered into one mesh."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.maps.relief import Relief
from sim.scene import MATERIAL_INDEX, Mesh

F64 = NDArray[np.float64]


@dataclass(slots=True)
class Patches:
    """Collects triangles. Heights are given above the ground; `relief` lifts them to where the ground is."""

    relief: Relief
    _vertices: list[F64] = field(default_factory=list)
    _triangles: list[NDArray[np.int64]] = field(default_factory=list)
    _material: list[NDArray[np.uint8]] = field(default_factory=list)
    _color: list[NDArray[np.uint8]] = field(default_factory=list)
    _count: int = 0

    def add(self, vertices_m: F64, triangles: NDArray[np.integer], material: str, color: ArrayLike) -> None:
        """Triangles in world metres, one material, a colour (3,) or (T, 3)."""
        count = len(triangles)
        self._append(
            vertices_m,
            triangles,
            np.full(count, MATERIAL_INDEX[material], dtype=np.uint8),
            np.broadcast_to(np.clip(color, 0, 255).astype(np.uint8), (count, 3)),
        )

    def strip(self, left_m: F64, right_m: F64, height_m: float, material: str, color: ArrayLike) -> None:
        """A band between two lines (N, 2 or more) of equal length, seen from above."""
        lines = np.stack([left_m[:, :2], right_m[:, :2]], axis=1).reshape(-1, 2)
        first = 2 * np.arange(len(left_m) - 1)
        quads = np.stack([first, first + 1, first + 3, first, first + 3, first + 2], axis=1).reshape(-1, 3)
        self.add(self.lifted(lines, height_m), quads, material, color)

    def wall(self, line_m: F64, low_m: float, high_m: float, material: str, color: ArrayLike) -> None:
        """An upright band along a line (N, 2 or more), facing its right side."""
        low, high = self.lifted(line_m[:, :2], low_m), self.lifted(line_m[:, :2], high_m)
        points = np.stack([low, high], axis=1).reshape(-1, 3)
        first = 2 * np.arange(len(line_m) - 1)
        quads = np.stack([first, first + 2, first + 3, first, first + 3, first + 1], axis=1).reshape(-1, 3)
        self.add(points, quads, material, color)

    def polygon(self, outline_m: F64, height_m: float, material: str, color: ArrayLike) -> None:
        """A simple polygon (N, 2 or more), seen from above."""
        ring = counter_clockwise(outline_m[:, :2])
        if len(ring) > 2:
            self.add(self.lifted(ring, height_m), ear_clip(ring), material, color)

    def quads(self, corners_m: F64, material: str, color: ArrayLike) -> None:
        """Quads (Q, 4, 3) in world metres, counter-clockwise from outside; colours (3,) or (Q, 3)."""
        first = 4 * np.arange(len(corners_m))
        triangles = np.stack([first, first + 1, first + 2, first, first + 2, first + 3], axis=1).reshape(-1, 3)
        shade = np.asarray(color)
        self.add(
            corners_m.reshape(-1, 3), triangles, material, shade if shade.ndim == 1 else np.repeat(shade, 2, axis=0)
        )

    def flat_quads(self, corners_m: F64, height_m: float, material: str, color: ArrayLike) -> None:
        """Quads (Q, 4, 2) on the ground, counter-clockwise from above."""
        if len(corners_m):
            self.quads(self.lifted(corners_m, height_m), material, color)

    def copies(self, prototype: Mesh, world_SE3_copy: F64, tint: F64 | None = None) -> None:
        """Copies of a mesh at (K, 4, 4); tint: (K,) factor on its colours."""
        k, vertices, triangles = len(world_SE3_copy), prototype.vertices_m.astype(np.float64), prototype.triangles
        moved = np.einsum("kij,vj->kvi", world_SE3_copy[:, :3, :3], vertices) + world_SE3_copy[:, None, :3, 3]
        starts = np.arange(k) * len(vertices)
        color = np.tile(prototype.color_rgb.astype(np.float64), (k, 1))
        if tint is not None:
            color *= np.repeat(tint, len(triangles))[:, None]
        self._append(
            moved.reshape(-1, 3),
            (triangles.astype(np.int64)[None] + starts[:, None, None]).reshape(-1, 3),
            np.tile(prototype.material, k),
            np.clip(color, 0, 255).astype(np.uint8),
        )

    def lifted(self, points_m: F64, height_m: float) -> F64:
        """Points (..., 2) on the ground plus a height: (..., 3)."""
        lifted: F64 = np.concatenate([points_m, (self.relief.at(points_m) + height_m)[..., None]], axis=-1)
        return lifted

    def mesh(self) -> Mesh:
        return Mesh(
            vertices_m=np.concatenate(self._vertices).astype(np.float32),
            triangles=np.concatenate(self._triangles).astype(np.uint32),
            material=np.concatenate(self._material),
            color_rgb=np.concatenate(self._color),
        )

    def _append(
        self, vertices: F64, triangles: NDArray[np.integer], material: NDArray[np.uint8], color: NDArray[np.uint8]
    ) -> None:
        self._vertices.append(vertices)
        self._triangles.append(triangles.astype(np.int64) + self._count)
        self._material.append(material)
        self._color.append(color)
        self._count += len(vertices)


def counter_clockwise(ring_m: F64) -> F64:
    """The ring (N, 2) without doubled points, counter-clockwise."""
    steps = np.linalg.norm(ring_m - np.roll(ring_m, 1, axis=0), axis=1)
    ring: F64 = ring_m[steps > 1e-3]
    if len(ring) < 3:
        return ring[:0]
    x, y = ring.T
    area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
    return ring if area > 0 else ring[::-1]


def ear_clip(ring_m: F64) -> NDArray[np.int64]:
    """Triangles (N - 2, 3) of a counter-clockwise ring (N, 2); what has no ear left is fanned."""
    left = list(range(len(ring_m)))
    triangles: list[Sequence[int]] = []
    while len(left) > 3:
        ear = next((k for k in range(len(left)) if _is_ear(ring_m, left, k)), None)
        if ear is None:
            break
        triangles.append((left[ear - 1], left[ear], left[(ear + 1) % len(left)]))
        left.pop(ear)
    triangles.extend((left[0], left[k], left[k + 1]) for k in range(1, len(left) - 1))
    return np.array(triangles, dtype=np.int64)


def _is_ear(ring: F64, left: Sequence[int], k: int) -> bool:
    a, b, c = (ring[left[(k + d) % len(left)]] for d in (-1, 0, 1))
    if _cross(b - a, c - b) <= 1e-9:
        return False
    others = ring[[index for index in left if index not in (left[k - 1], left[k], left[(k + 1) % len(left)])]]
    inside = (
        (_cross(b - a, others - a) > 1e-9) & (_cross(c - b, others - b) > 1e-9) & (_cross(a - c, others - c) > 1e-9)
    )
    return not bool(np.any(inside))


def _cross(one: F64, other: F64) -> F64:
    area: F64 = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
    return area


def upright(points_m: F64, yaw_rad: F64, scale: F64 | float = 1.0) -> F64:
    """Transforms (K, 4, 4) that put copies at points (K, 3), turned about z, scaled."""
    count = len(points_m)
    placed = np.zeros((count, 4, 4))
    size = np.broadcast_to(scale, (count,))
    cos, sin = np.cos(yaw_rad) * size, np.sin(yaw_rad) * size
    placed[:, 0, 0], placed[:, 0, 1], placed[:, 1, 0], placed[:, 1, 1] = cos, -sin, sin, cos
    placed[:, 2, 2], placed[:, 3, 3] = size, 1.0
    placed[:, :3, 3] = points_m
    return placed
