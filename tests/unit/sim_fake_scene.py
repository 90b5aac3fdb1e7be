"""A small world for sensor tests: ground, a wall, boxes that drive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import integrate_twist, se3_from_yaw
from sim.scene import MATERIAL_INDEX, ActorModel, ActorStates, EgoPose, Mesh

F64 = NDArray[np.float64]

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64) / 2
_FACES = np.array(
    [0, 1, 3, 0, 3, 2, 4, 6, 7, 4, 7, 5, 0, 4, 5, 0, 5, 1, 2, 3, 7, 2, 7, 6, 0, 2, 6, 0, 6, 4, 1, 5, 7, 1, 7, 3],
    dtype=np.uint32,
).reshape(-1, 3)


def box(size: Sequence[float], center: Sequence[float], material: str, color: tuple[int, int, int]) -> Mesh:
    t = len(_FACES)
    return Mesh(
        vertices_m=(_CORNERS * np.asarray(size) + np.asarray(center)).astype(np.float32),
        triangles=_FACES,
        material=np.full(t, MATERIAL_INDEX[material], dtype=np.uint8),
        color_rgb=np.tile(np.array(color, dtype=np.uint8), (t, 1)),
    )


def join(meshes: Sequence[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices_m) for mesh in meshes)])
    return Mesh(
        vertices_m=np.concatenate([mesh.vertices_m for mesh in meshes]),
        triangles=np.concatenate([m.triangles + np.uint32(s) for m, s in zip(meshes, starts[:-1], strict=True)]),
        material=np.concatenate([mesh.material for mesh in meshes]),
        color_rgb=np.concatenate([mesh.color_rgb for mesh in meshes]),
    )


def ground(side_m: float = 400.0) -> Mesh:
    return box((side_m, side_m, 1.0), (0.0, 0.0, -0.5), "asphalt", (70, 70, 72))


def model(name: str, size: Sequence[float], parts: Sequence[Mesh] | None = None, rcs_dbsm: float = 10.0) -> ActorModel:
    """A box on the ground, of car paint unless `parts` say otherwise; two phases, of which the second is the same."""
    mesh = join(parts) if parts is not None else box(size, (0, 0, size[2] / 2), "car_paint", (180, 30, 30))
    return ActorModel(
        name=name,
        category="vehicle.car",
        class_index=0,
        phases=(mesh, mesh),
        box_center_m=np.array([0.0, 0.0, size[2] / 2]),
        box_size_m=np.asarray(size, dtype=np.float64),
        radar_cross_section_dbsm=rcs_dbsm,
    )


@dataclass(frozen=True, kw_only=True)
class Mover:
    """Something that keeps its speed and yaw rate from time zero on."""

    model: str
    x_m: float
    y_m: float
    yaw_rad: float = 0.0
    speed_mps: float = 0.0
    yaw_rate_radps: float = 0.0

    def pose(self, time_ns: int | NDArray[np.int64]) -> F64:
        """world_SE3_actor (..., 4, 4) at times (...)."""
        start = se3_from_yaw(self.yaw_rad, (self.x_m, self.y_m, 0.0))
        return start @ integrate_twist((self.speed_mps, 0.0), self.yaw_rate_radps, np.asarray(time_ns) / 1e9)


@dataclass(frozen=True, kw_only=True)
class FakeScene:
    """A `SceneView` of `Mover`s; times from anywhere."""

    scenery: Mesh
    models: Mapping[str, ActorModel] = field(default_factory=dict)
    movers: tuple[Mover, ...] = ()
    ego: Mover = Mover(model="ego", x_m=0.0, y_m=0.0)
    lamps: Mapping[int, str] = field(default_factory=dict)
    horizon_ns: int = 10**12

    def actors_at(self, time_ns: int) -> ActorStates:
        poses = np.array([mover.pose(time_ns) for mover in self.movers]).reshape(-1, 4, 4)
        speed = np.array([mover.speed_mps for mover in self.movers])
        return ActorStates(
            time_ns=time_ns,
            actor_id=np.arange(len(self.movers), dtype=np.int64) + 100,
            model=tuple(mover.model for mover in self.movers),
            phase=np.array([i % len(self.models[m.model].phases) for i, m in enumerate(self.movers)], dtype=np.int64),
            world_SE3_actor=poses,
            velocity_mps=poses[:, :3, 0] * speed[:, None],
            yaw_rate_radps=np.array([mover.yaw_rate_radps for mover in self.movers]),
            attribute_index=np.full(len(self.movers), -1, dtype=np.int64),
        )

    def ego_at(self, time_ns: int) -> EgoPose:
        return EgoPose(
            time_ns=time_ns,
            world_SE3_ego=self.ego.pose(time_ns),
            velocity_mps=np.array([self.ego.speed_mps, 0.0]),
            yaw_rate_radps=self.ego.yaw_rate_radps,
        )

    def signal_lamps_at(self, time_ns: int) -> Mapping[int, str]:
        return self.lamps
