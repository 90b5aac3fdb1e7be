"""What a builder of meshes returns, and how it becomes an `ActorModel`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.taxonomy import CLASS_INDEX, NO_CLASS
from sim.actors.solids import Solid, mesh_of
from sim.scene import ActorModel, Mesh

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Body:
    """Solids by phase, x forward. rear_axle_m: x of the axle that follows without sliding.

    hitch_m: x where a trailer is coupled, of a tractor. kingpin_m: x where a trailer hangs on its tractor.
    """

    phases: tuple[tuple[Solid, ...], ...]
    rear_axle_m: float = 0.0
    hitch_m: float | None = None
    kingpin_m: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Actor:
    """A model and how it moves. kind: `saloon`, `bus`...; lengths along x from the middle of its footprint."""

    model: ActorModel
    kind: str
    rear_axle_m: float
    hitch_m: float | None
    kingpin_m: float | None

    @property
    def length_m(self) -> float:
        return float(self.model.box_size_m[0])

    @property
    def width_m(self) -> float:
        return float(self.model.box_size_m[1])


def actor_of(body: Body, *, name: str, kind: str, category: str, label: str | None, rcs_dbsm: float) -> Actor:
    """Shift the body so that its footprint is centred and stands on the ground, and measure its tight box."""
    meshes = [mesh_of(solids) for solids in body.phases]
    low = np.min([mesh.vertices_m.min(axis=0) for mesh in meshes], axis=0).astype(np.float64)
    high = np.max([mesh.vertices_m.max(axis=0) for mesh in meshes], axis=0).astype(np.float64)
    shift = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    centred = tuple(
        Mesh(
            vertices_m=(mesh.vertices_m - shift).astype(np.float32),
            triangles=mesh.triangles,
            material=mesh.material,
            color_rgb=mesh.color_rgb,
        )
        for mesh in meshes
    )
    low = np.min([mesh.vertices_m.min(axis=0) for mesh in centred], axis=0).astype(np.float64)
    high = np.max([mesh.vertices_m.max(axis=0) for mesh in centred], axis=0).astype(np.float64)
    model = ActorModel(
        name=name,
        category=category,
        class_index=CLASS_INDEX[label] if label is not None else NO_CLASS,
        phases=centred,
        box_center_m=(low + high) / 2,
        box_size_m=high - low,
        radar_cross_section_dbsm=rcs_dbsm,
    )
    return Actor(
        model=model,
        kind=kind,
        rear_axle_m=body.rear_axle_m - shift[0],
        hitch_m=None if body.hitch_m is None else body.hitch_m - shift[0],
        kingpin_m=None if body.kingpin_m is None else body.kingpin_m - shift[0],
    )
