"""Closed solids to build meshes from: boxes, lofts, tubes and ellipsoids, always wound outwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.core.geometry import rotation_exp
from sim.scene import MATERIAL_INDEX, Mesh

F64 = NDArray[np.float64]
Color = tuple[int, int, int]
Skin = tuple[str, Color]
"""A material's name and a colour."""

BLACK: Color = (18, 18, 20)
DARK: Color = (45, 45, 48)
STEEL: Color = (150, 152, 156)
GLASS: Skin = ("glass", (40, 52, 60))
TYRE: Skin = ("tyre", (24, 24, 25))
RIM: Skin = ("metal", (140, 142, 146))
PLASTIC: Skin = ("plastic", DARK)
INTERIOR: Skin = ("cloth", (38, 36, 36))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solid:
    """Triangles. vertices_m: (V, 3) float64. triangles: (T, 3). material: (T,). color_rgb: (T, 3)."""

    vertices_m: F64
    triangles: NDArray[np.int64]
    material: NDArray[np.uint8]
    color_rgb: NDArray[np.uint8]

    def moved(self, by_m: ArrayLike) -> "Solid":
        return replace(self, vertices_m=self.vertices_m + np.asarray(by_m))

    def turned(self, rotation_vector: ArrayLike, about_m: ArrayLike = (0.0, 0.0, 0.0)) -> "Solid":
        """Rotated by a rotation vector (3,) in radians about a point (3,)."""
        pivot = np.asarray(about_m, dtype=np.float64)
        rotation = rotation_exp(np.asarray(rotation_vector, dtype=np.float64))
        return replace(self, vertices_m=(self.vertices_m - pivot) @ rotation.T + pivot)

    def mirrored(self) -> "Solid":
        """The same on the other side of the x-z plane, wound outwards again."""
        return replace(self, vertices_m=self.vertices_m * (1.0, -1.0, 1.0), triangles=self.triangles[:, ::-1])


def volume_m3(vertices_m: NDArray[np.floating], triangles: NDArray[np.integer]) -> float:
    """Signed volume of a closed surface: positive where its triangles are wound outwards."""
    a, b, c = (np.asarray(vertices_m, dtype=np.float64)[triangles[:, k]] for k in range(3))
    return float(np.sum(a * np.cross(b, c)) / 6)


def loft(
    rings_m: F64, skins: Skin | Sequence[Sequence[Skin]], start: Skin | None = None, end: Skin | None = None
) -> Solid:
    """Skin over rings (S, M, 3) with convex ends. skins: one for all, or one by interval (S - 1) and side (M).

    The ends take `start` and `end`, else the skin of the first side.
    """
    s, m = rings_m.shape[:2]
    table: Sequence[Sequence[Skin]]
    table = [[skins] * m] * (s - 1) if isinstance(skins[0], str) else skins  # type: ignore[list-item,assignment]
    base = np.arange(s * m).reshape(s, m)
    near, far = base[:-1], base[1:]
    near_next, far_next = np.roll(near, -1, axis=1), np.roll(far, -1, axis=1)
    sides = np.stack([near, near_next, far_next, near, far_next, far], axis=-1).reshape(-1, 3)
    fan = np.stack([np.zeros(m - 2, dtype=np.int64), np.arange(1, m - 1), np.arange(2, m)], axis=1)
    triangles = np.concatenate([sides, base[0][fan[:, ::-1]], base[-1][fan]])
    side_skins = [skin for row in table for skin in row for _ in range(2)]
    end_skins = [start or table[0][0]] * (m - 2) + [end or table[-1][0]] * (m - 2)
    return _solid(rings_m.reshape(-1, 3), triangles, side_skins + end_skins)


def box(size_m: ArrayLike, center_m: ArrayLike, skin: Skin, top: float = 1.0) -> Solid:
    """A box of size (3,) about a centre (3,); its top face is `top` times as large."""
    x, y, z = np.asarray(size_m, dtype=np.float64) / 2
    low = np.array([[-x, -y, -z], [x, -y, -z], [x, y, -z], [-x, y, -z]])
    high = low * (top, top, -1.0)
    return loft(np.stack([low, high]) + np.asarray(center_m), skin)


def tube(start_m: ArrayLike, end_m: ArrayLike, radii_m: tuple[float, float], skin: Skin, sides: int = 6) -> Solid:
    """A tapered tube from a point (3,) to a point (3,)."""
    a, b = np.asarray(start_m, dtype=np.float64), np.asarray(end_m, dtype=np.float64)
    axis = (b - a) / np.linalg.norm(b - a)
    across = np.cross(axis, (0.0, 1.0, 0.0) if abs(axis[1]) < 0.9 else (1.0, 0.0, 0.0))
    across /= np.linalg.norm(across)
    other = np.cross(axis, across)
    angle = 2 * np.pi * np.arange(sides) / sides
    circle = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * other
    return loft(np.stack([a + circle * radii_m[0], b + circle * radii_m[1]]), skin)


def hoop(center_m: ArrayLike, radius_m: float, width_m: float, skin: Skin, sides: int = 14) -> Solid:
    """A standing ring about the y axis, triangular in section: a wheel that one sees through."""
    angle = 2 * np.pi * np.arange(sides) / sides
    spoke = np.stack([np.cos(angle), np.zeros(sides), np.sin(angle)], axis=1)
    half = np.array([0.0, width_m / 2, 0.0])
    rims = [spoke * radius_m - half, spoke * radius_m + half, spoke * (radius_m - 1.3 * width_m)]
    base = np.arange(3 * sides).reshape(3, sides)
    faces = []
    for k in range(3):
        near, far = base[k], base[(k + 1) % 3]
        near_next, far_next = np.roll(near, -1), np.roll(far, -1)
        faces.append(np.stack([near, near_next, far_next, near, far_next, far], axis=-1).reshape(-1, 3))
    triangles = np.concatenate(faces)
    return _solid(np.concatenate(rims) + np.asarray(center_m), triangles, [skin] * len(triangles))


def ellipsoid(center_m: ArrayLike, radii_m: ArrayLike, skin: Skin, sides: int = 6, rows: int = 3) -> Solid:
    """An ellipsoid of few faces, its poles flattened to small caps."""
    polar = np.linspace(0.12, 0.88, rows + 1) * np.pi
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(sides)], axis=1)
    rings = np.stack([ring * np.sin(p) + (0.0, 0.0, -np.cos(p) / np.cos(0.12 * np.pi)) for p in polar])
    return loft(rings * np.asarray(radii_m) + np.asarray(center_m), skin)


def wheel(x_m: float, y_m: float, radius_m: float, width_m: float, sides: int = 12) -> list[Solid]:
    """A tyre standing on the ground with its rim on the outside; `y_m` is the middle of its tread."""
    out = np.sign(y_m) if y_m else 1.0
    middle = np.array([x_m, y_m, radius_m])
    half = np.array([0.0, width_m / 2, 0.0])
    tyre = tube(middle - half, middle + half, (radius_m, radius_m), TYRE, sides)
    face = middle + out * half
    rim = tube(
        face - (0, out * 0.02, 0), face + np.array([0.0, out * 0.012, 0.0]), (radius_m * 0.62, radius_m * 0.55), RIM, 8
    )
    return [tyre, rim]


def mesh_of(solids: Sequence[Solid]) -> Mesh:
    """All solids as one mesh."""
    starts = np.cumsum([0, *(len(solid.vertices_m) for solid in solids)])
    return Mesh(
        vertices_m=np.concatenate([solid.vertices_m for solid in solids]).astype(np.float32),
        triangles=np.concatenate(
            [solid.triangles + start for solid, start in zip(solids, starts, strict=False)]
        ).astype(np.uint32),
        material=np.concatenate([solid.material for solid in solids]),
        color_rgb=np.concatenate([solid.color_rgb for solid in solids]),
    )


def _solid(vertices_m: F64, triangles: NDArray[np.int64], skins: Sequence[Skin]) -> Solid:
    if volume_m3(vertices_m - vertices_m.mean(axis=0), triangles) < 0:
        triangles = triangles[:, ::-1]
    return Solid(
        vertices_m=vertices_m,
        triangles=triangles,
        material=np.array([MATERIAL_INDEX[name] for name, _ in skins], dtype=np.uint8),
        color_rgb=np.array([color for _, color in skins], dtype=np.uint8),
    )
