"""What the world hands to the sensors: meshes, materials and where everything is at one time.

World frame: x east, y north, z up, metres. An actor's origin is the middle of its footprint on the ground, x forward.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """How a surface answers to light, lidar and radar.

    reflectivity: diffuse lidar reflectivity 0..1 at normal incidence. retro: True for signs and plates that throw the
    beam back. is_glass: lidar and light pass. specular: 0..1 gloss for the camera. radar: 0..1 share of power returned.
    """

    reflectivity: float
    radar: float
    specular: float = 0.0
    retro: bool = False
    is_glass: bool = False


MATERIALS: Final[dict[str, Material]] = {
    "asphalt": Material(reflectivity=0.12, radar=0.01),
    "marking": Material(reflectivity=0.55, radar=0.01),
    "pavement": Material(reflectivity=0.30, radar=0.02),
    "kerb": Material(reflectivity=0.35, radar=0.05),
    "grass": Material(reflectivity=0.35, radar=0.02),
    "soil": Material(reflectivity=0.22, radar=0.02),
    "facade": Material(reflectivity=0.45, radar=0.30),
    "window": Material(reflectivity=0.05, radar=0.10, specular=0.8, is_glass=True),
    "bark": Material(reflectivity=0.30, radar=0.08),
    "foliage": Material(reflectivity=0.40, radar=0.05),
    "metal": Material(reflectivity=0.40, radar=0.80, specular=0.3),
    "sign": Material(reflectivity=0.90, radar=0.60, retro=True),
    "car_paint": Material(reflectivity=0.35, radar=0.90, specular=0.5),
    "tyre": Material(reflectivity=0.06, radar=0.05),
    "glass": Material(reflectivity=0.05, radar=0.10, specular=0.9, is_glass=True),
    "plate": Material(reflectivity=0.90, radar=0.30, retro=True),
    "headlight": Material(reflectivity=0.60, radar=0.20, specular=0.8, retro=True),
    "taillight": Material(reflectivity=0.60, radar=0.20, specular=0.4, retro=True),
    "cloth": Material(reflectivity=0.35, radar=0.05),
    "skin": Material(reflectivity=0.45, radar=0.06),
    "plastic": Material(reflectivity=0.50, radar=0.05, specular=0.2),
    "concrete": Material(reflectivity=0.35, radar=0.15),
    "tarpaulin": Material(reflectivity=0.40, radar=0.25),
    "lamp_red": Material(reflectivity=0.30, radar=0.05),
    "lamp_yellow": Material(reflectivity=0.30, radar=0.05),
    "lamp_green": Material(reflectivity=0.30, radar=0.05),
}
MATERIAL_NAMES: Final[tuple[str, ...]] = tuple(MATERIALS)
MATERIAL_INDEX: Final[dict[str, int]] = {name: index for index, name in enumerate(MATERIAL_NAMES)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mesh:
    """Triangles with a material and a colour each.

    vertices_m: (V, 3) float32. triangles: (T, 3) uint32, counter-clockwise seen from outside. material: (T,) uint8 into
    `MATERIAL_NAMES`. color_rgb: (T, 3) uint8.
    """

    vertices_m: NDArray[np.float32]
    triangles: NDArray[np.uint32]
    material: NDArray[np.uint8]
    color_rgb: NDArray[np.uint8]

    def __post_init__(self) -> None:
        t = len(self.triangles)
        if self.vertices_m.ndim != 2 or self.vertices_m.shape[1] != 3 or self.triangles.shape != (t, 3):
            raise ValueError(f"mesh: vertices {self.vertices_m.shape}, triangles {self.triangles.shape}")
        if self.material.shape != (t,) or self.color_rgb.shape != (t, 3):
            raise ValueError(f"mesh of {t} triangles: material {self.material.shape}, color {self.color_rgb.shape}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActorModel:
    """One kind of actor. phases: its mesh at each phase of its gait (one for vehicles), in the actor's frame.

    category: nuScenes category name. class_index: into `perception.core.taxonomy.CLASSES`. box_center_m, box_size_m:
    (3,) the tight box over all phases, length/width/height. radar_cross_section_dbsm: nominal, seen from the side.
    """

    name: str
    category: str
    class_index: int
    phases: tuple[Mesh, ...]
    box_center_m: F64
    box_size_m: F64
    radar_cross_section_dbsm: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActorStates:
    """All actors at one time, K rows.

    actor_id: (K,) int64, never reused in a world. model: K names. phase: (K,) int64. world_SE3_actor: (K, 4, 4)
    float64. velocity_mps: (K, 3) float64 world. yaw_rate_radps: (K,). attribute_index: (K,) int64 into ATTRIBUTES, -1
    if none.
    """

    time_ns: int
    actor_id: NDArray[np.int64]
    model: tuple[str, ...]
    phase: NDArray[np.int64]
    world_SE3_actor: F64
    velocity_mps: F64
    yaw_rate_radps: F64
    attribute_index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.actor_id)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EgoPose:
    """The ego at one time: rear axle on the ground. velocity_mps: (2,) in ego axes; yaw_rate_radps about z."""

    time_ns: int
    world_SE3_ego: F64
    velocity_mps: F64
    yaw_rate_radps: float


class SceneView(Protocol):
    """What a sensor may ask of a world. Times must lie within what has been simulated (`horizon_ns`)."""

    @property
    def scenery(self) -> Mesh: ...

    @property
    def models(self) -> Mapping[str, ActorModel]: ...

    @property
    def horizon_ns(self) -> int: ...

    def actors_at(self, time_ns: int) -> ActorStates:
        """Actors (the ego not among them), interpolated to `time_ns`."""
        ...

    def ego_at(self, time_ns: int) -> EgoPose: ...

    def signal_lamps_at(self, time_ns: int) -> Mapping[int, str]:
        """Colour (`lamp_red` ...) by lamp actor id for lit lamps; empty where the map has no lights."""
        ...
