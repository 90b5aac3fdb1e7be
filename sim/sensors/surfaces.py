"""The triangles of scenery and actor models, ready for casting, and what each triangle is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import ConfigError
from sim.scene import MATERIAL_INDEX, ActorModel, Mesh
from sim.sensors.raycast import RayCaster, RayCasterFactory

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

SLOT_SPACING = 2.5
"""Distance of neighbouring models in the library scene, in radii of the largest: see `ActorLibrary`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SurfaceTable:
    """One row a triangle: scenery first, then all models of the library; S in all.

    look: (S, 8) float32, a row a triangle so that one fetch brings all: unit normal (in the world for scenery, in the
    actor's frame for models), albedo (linear blue, green, red), material, unused. material: (S,) uint8. face: (S,)
    int64, equal for triangles that look alike and lie alike. pane: (S,) int64, a number for each window of two
    triangles.
    """

    look: F32
    material: NDArray[np.uint8]
    face: I64
    pane: I64

    @classmethod
    def of(cls, meshes: Iterable[Mesh]) -> "SurfaceTable":
        every = tuple(meshes)
        material = np.concatenate([mesh.material for mesh in every])
        color = np.concatenate([mesh.color_rgb for mesh in every])
        look = np.zeros((len(material), 8), dtype=np.float32)
        look[:, :3] = np.concatenate([_normals(mesh) for mesh in every])
        look[:, 3:6] = srgb_to_linear(color[:, ::-1])
        look[:, 6] = material
        pane = (np.cumsum(material == MATERIAL_INDEX["window"]) - 1) // 2
        return cls(look=look, material=material, face=_face_keys(look[:, :3], material, color), pane=pane)

    def fetch(self, surface: NDArray[np.int32]) -> tuple[F32, F32, NDArray[np.uint8]]:
        """Normal and albedo (3, N) and material (N,) of triangles (N,)."""
        columns = np.ascontiguousarray(self.look.take(surface, axis=0).T)
        return columns[:3], columns[3:6], columns[6].astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActorLibrary:
    """Every model and phase in one scene, each in a slot of its own on a coarse grid.

    Rays are cast from where they enter their own model's box to where they leave it, and no neighbour reaches in there:
    so all actors of a frame are cast in one call, and nothing is ever rebuilt.

    slot: row by (model, phase). origin_m: (L, 3) where a slot's actor frame sits. center_m, half_m: (L, 3) box of the
    slot's model. radius_m: (L,) of the sphere about the box. first_surface: row of the library's first triangle.
    """

    caster: RayCaster
    slot: Mapping[tuple[str, int], int]
    origin_m: F64
    center_m: F64
    half_m: F64
    radius_m: F64
    first_surface: int

    @classmethod
    def of(cls, models: Mapping[str, ActorModel], first_surface: int, factory: RayCasterFactory) -> "ActorLibrary":
        entries = [(model, phase) for model in models.values() for phase in range(len(model.phases))]
        bounds = [_bounds(model.phases[phase]) for model, phase in entries]
        center = np.array([c for c, _ in bounds]).reshape(-1, 3)
        half = np.array([h for _, h in bounds]).reshape(-1, 3)
        radius = np.linalg.norm(half, axis=1)
        side = max(1, int(np.ceil(len(entries) ** (1 / 3))))
        cell = np.stack(np.unravel_index(np.arange(len(entries)), (side, side, side)), axis=1)
        origin = (cell - (side - 1) / 2) * SLOT_SPACING * radius.max(initial=1.0) - center
        vertices, triangles, count = [np.zeros((0, 3), np.float32)], [np.zeros((0, 3), np.uint32)], 0
        for (model, phase), place in zip(entries, origin, strict=True):
            mesh = model.phases[phase]
            vertices.append((mesh.vertices_m + place).astype(np.float32))
            triangles.append(mesh.triangles + np.uint32(count))
            count += len(mesh.vertices_m)
        return cls(
            caster=factory(np.concatenate(vertices), np.concatenate(triangles)),
            slot={(model.name, phase): row for row, (model, phase) in enumerate(entries)},
            origin_m=origin,
            center_m=center,
            half_m=half,
            radius_m=radius,
            first_surface=first_surface,
        )

    def slots_of(self, models: tuple[str, ...], phases: I64) -> I64:
        """Slots (K,) of actors by model and phase. Raises ConfigError on a model that the library lacks."""
        try:
            return np.array([self.slot[name, int(p)] for name, p in zip(models, phases, strict=True)], dtype=np.int64)
        except KeyError as error:
            raise ConfigError(f"actor model and phase {error} are not among the scene's models") from None


def srgb_to_linear(color: NDArray[np.uint8]) -> F32:
    """Linear light 0..1 of 8-bit sRGB values of any shape (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return table[color]


def _normals(mesh: Mesh) -> F32:
    corner = mesh.vertices_m[mesh.triangles].astype(np.float64)
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    length = np.linalg.norm(across, axis=1, keepdims=True)
    return np.asarray(across / np.maximum(length, 1e-12), dtype=np.float32)


def _face_keys(normal: F32, material: NDArray[np.uint8], color: NDArray[np.uint8]) -> I64:
    # Coarse directions: neighbours on a gently curved road or a car's roof count as one face.
    direction = np.round(normal * 3).astype(np.int64) + 3
    key = (direction[:, 0] * 7 + direction[:, 1]) * 7 + direction[:, 2]
    shade = color.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return np.asarray(((key * 256 + material) << 24) + shade, dtype=np.int64)


def _bounds(mesh: Mesh) -> tuple[F64, F64]:
    if len(mesh.vertices_m) == 0:
        return np.zeros(3), np.zeros(3)
    low, high = mesh.vertices_m.min(axis=0).astype(np.float64), mesh.vertices_m.max(axis=0).astype(np.float64)
    return (low + high) / 2, (high - low) / 2
