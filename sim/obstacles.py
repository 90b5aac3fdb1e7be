"""The other road users as flat rectangles, and where they will be if nobody changes their mind."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import yaw_of
from perception.core.taxonomy import CLASS_INDEX
from sim.scene import ActorModel, ActorStates

F64 = NDArray[np.float64]

CLEARANCE_M = 2.2
"""What hangs higher than this over the road (lamps, signs) is no obstacle."""
ON_FOOT = (CLASS_INDEX["pedestrian"],)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Obstacles:
    """K rectangles in the world. center_m: (K, 2). half_m: (K, 2) half length and width. velocity_mps: (K, 2)."""

    actor_id: NDArray[np.int64]
    center_m: F64
    yaw_rad: F64
    half_m: F64
    velocity_mps: F64
    yaw_rate_radps: F64
    is_on_foot: NDArray[np.bool_]

    @classmethod
    def of(cls, actors: ActorStates, models: Mapping[str, ActorModel], ground_m: float = 0.0) -> "Obstacles":
        """All actors that touch the ground storey at `ground_m` (a bridge above or below is another storey)."""
        kinds = [models[name] for name in actors.model]
        box = np.array([kind.box_center_m for kind in kinds]).reshape(-1, 3)
        size = np.array([kind.box_size_m for kind in kinds]).reshape(-1, 3)
        pose = actors.world_SE3_actor.reshape(-1, 4, 4)
        center = np.einsum("kij,kj->ki", pose[:, :3, :3], box) + pose[:, :3, 3]
        bottom = center[:, 2] - size[:, 2] / 2 - ground_m
        keep = (bottom < CLEARANCE_M) & (bottom > -CLEARANCE_M)
        on_foot = np.array([kind.class_index in ON_FOOT for kind in kinds], dtype=bool)
        return cls(
            actor_id=actors.actor_id[keep],
            center_m=center[keep, :2],
            yaw_rad=yaw_of(pose[keep, :3, :3]),
            half_m=size[keep, :2] / 2,
            velocity_mps=actors.velocity_mps[keep, :2],
            yaw_rate_radps=actors.yaw_rate_radps[keep],
            is_on_foot=on_foot[keep],
        )

    def __len__(self) -> int:
        return len(self.actor_id)

    @property
    def speed_mps(self) -> F64:
        speed: F64 = np.linalg.norm(self.velocity_mps, axis=1)
        return speed

    def rows(self, keep: NDArray[np.bool_]) -> "Obstacles":
        return Obstacles(**{name: getattr(self, name)[keep] for name in self.__slots__})

    def near(self, point_m: F64, radius_m: float) -> "Obstacles":
        return self.rows(np.linalg.norm(self.center_m - point_m, axis=1) < radius_m)

    def predicted(self, times_s: F64) -> tuple[F64, F64]:
        """Centres (K, T, 2) and headings (K, T) after `times_s` (T,), each going on at its speed and turn rate."""
        angle = self.yaw_rate_radps[:, None] * times_s
        sine, versine = np.sinc(angle / np.pi), np.sinc(angle / (2 * np.pi)) * np.sin(angle / 2)
        vx, vy = self.velocity_mps[:, :1], self.velocity_mps[:, 1:]
        moved = np.stack([vx * sine - vy * versine, vx * versine + vy * sine], axis=-1) * times_s[:, None]
        return self.center_m[:, None] + moved, self.yaw_rad[:, None] + angle

    def occupied(self, points_m: F64, radius_m: float, times_s: F64) -> NDArray[np.bool_]:
        """(K, T, J): True where the rectangle at that time, grown by `radius_m`, holds a point of (J, 2)."""
        center, yaw = self.predicted(times_s)
        away = points_m - center[:, :, None]
        cos, sin = np.cos(yaw)[..., None], np.sin(yaw)[..., None]
        along = np.abs(away[..., 0] * cos + away[..., 1] * sin)
        across = np.abs(away[..., 1] * cos - away[..., 0] * sin)
        half = self.half_m + radius_m
        is_inside: NDArray[np.bool_] = (along <= half[:, 0, None, None]) & (across <= half[:, 1, None, None])
        return is_inside

    def corners_m(self) -> F64:
        """Corners (K, 4, 2), counter-clockwise."""
        signs = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
        local = self.half_m[:, None] * signs
        cos, sin = np.cos(self.yaw_rad)[:, None], np.sin(self.yaw_rad)[:, None]
        turned = np.stack(
            [local[..., 0] * cos - local[..., 1] * sin, local[..., 0] * sin + local[..., 1] * cos], axis=-1
        )
        corners: F64 = turned + self.center_m[:, None]
        return corners


def overlaps(corners_m: F64, others_m: F64) -> NDArray[np.bool_]:
    """(K,): True where the convex quadrilateral (4, 2) meets each of (K, 4, 2) (separating axes)."""
    hit = np.ones(len(others_m), dtype=bool)
    edges = np.diff(corners_m, axis=0, append=corners_m[:1])[:2]
    for normal in np.stack([-edges[:, 1], edges[:, 0]], axis=1):
        own, theirs = corners_m @ normal, others_m @ normal
        hit &= (theirs.min(axis=1) <= own.max()) & (theirs.max(axis=1) >= own.min())
    for i in range(2):
        edge = others_m[:, i + 1] - others_m[:, i]
        normals = np.stack([-edge[:, 1], edge[:, 0]], axis=1)
        own, theirs = normals @ corners_m.T, np.einsum("kni,ki->kn", others_m, normals)
        hit &= (theirs.min(axis=1) <= own.max(axis=1)) & (theirs.max(axis=1) >= own.min(axis=1))
    return hit
