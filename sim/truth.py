"""Ground truth at a reference time: labelled boxes, what of them can be seen, and where the road and the ego go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import invert, rotation_to_quaternion, transform_points
from perception.core.labels import Labels
from perception.core.messages import LidarSweep, RadarScan, SweepMotion
from perception.core.motion import EgoMotion, MotionSource
from perception.core.rig import SensorRig
from sim.scene import ActorStates, EgoPose, SceneView

F64 = NDArray[np.float64]

LABEL_RANGE_M = 80.0
RADAR_MARGIN_M = 0.5
"""A radar return belongs to a box that it misses by no more than this: range and angle are coarse."""
MOTION_KNOT_NS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boxes:
    """K actors' boxes in the ego frame. ego_SE3_box: (K, 4, 4), at the boxes' centres. size_m: (K, 3) l/w/h."""

    states: ActorStates
    ego_SE3_box: F64
    size_m: F64
    class_index: NDArray[np.int64]


def boxes_at(scene: SceneView, time_ns: int, range_m: float = LABEL_RANGE_M) -> Boxes:
    """Boxes of all actors of a known class within `range_m` of the ego at `time_ns`."""
    states = scene.actors_at(time_ns)
    kinds = [scene.models[name] for name in states.model]
    offset = np.tile(np.eye(4), (len(kinds), 1, 1))
    offset[:, :3, 3] = np.array([kind.box_center_m for kind in kinds]).reshape(-1, 3)
    ego_SE3_box = invert(scene.ego_at(time_ns).world_SE3_ego) @ states.world_SE3_actor.reshape(-1, 4, 4) @ offset
    class_index = np.array([kind.class_index for kind in kinds], dtype=np.int64)
    keep = (class_index >= 0) & (np.linalg.norm(ego_SE3_box[:, :2, 3], axis=1) <= range_m)
    return Boxes(
        states=_rows(states, keep),
        ego_SE3_box=ego_SE3_box[keep],
        size_m=np.array([kind.box_size_m for kind in kinds]).reshape(-1, 3)[keep],
        class_index=class_index[keep],
    )


def labels_at(
    scene: SceneView,
    reference_ns: int,
    rig: SensorRig,
    sweeps: Sequence[LidarSweep],
    scans: Sequence[RadarScan],
    range_m: float = LABEL_RANGE_M,
    look: Callable[[Boxes], F64] | None = None,
) -> Labels:
    """Labels of the actors within `range_m`, with the lidar points and radar returns that these messages have on them.

    Points count where they lie in the box at `reference_ns` after the ego's motion was taken out of the sweep, as in
    nuScenes; returns where they lie over the box at their own time. Actors without any are labelled too. look: how much
    of each box (K,) is visible.
    """
    boxes = boxes_at(scene, reference_ns, range_m)
    ego_R_world = scene.ego_at(reference_ns).world_SE3_ego[:3, :3].T
    lidar = np.zeros(len(boxes.states), dtype=np.int64)
    for sweep in sweeps:
        points = swept_points(scene, sweep, rig[sweep.sensor].ego_SE3_sensor, reference_ns)
        lidar += count_inside(points, boxes.ego_SE3_box, boxes.size_m)
    radar = np.zeros(len(boxes.states), dtype=np.int64)
    for scan in scans:
        radar += _returns_on(scene, scan, rig[scan.sensor].ego_SE3_sensor, boxes.states.actor_id)
    return Labels(
        reference_ns=reference_ns,
        category=tuple(scene.models[name].category for name in boxes.states.model),
        class_index=boxes.class_index,
        center_m=boxes.ego_SE3_box[:, :3, 3],
        size_m=boxes.size_m,
        quaternion_wxyz=np.array([rotation_to_quaternion(pose[:3, :3]) for pose in boxes.ego_SE3_box]).reshape(-1, 4),
        velocity_mps=(boxes.states.velocity_mps @ ego_R_world.T)[:, :2],
        attribute_index=boxes.states.attribute_index,
        track_id=tuple(f"actor-{actor}" for actor in boxes.states.actor_id),
        num_lidar_points=lidar,
        num_radar_points=radar,
        visible_share=look(boxes) if look is not None else None,
    )


def true_motion(scene: SceneView, start_ns: int, end_ns: int, reference_ns: int) -> EgoMotion:
    """The ego's track from `start_ns` to `end_ns` as seen at `reference_ns`."""
    pieces = max(1, -(-(end_ns - start_ns) // MOTION_KNOT_NS))
    knots = np.unique(np.linspace(start_ns, end_ns, pieces + 1).round().astype(np.int64))
    reference = scene.ego_at(reference_ns)
    ego_SE3_world = invert(reference.world_SE3_ego)
    return EgoMotion(
        reference_ns=reference_ns,
        knots_ns=knots,
        reference_SE3_ego=np.stack([ego_SE3_world @ scene.ego_at(int(knot)).world_SE3_ego for knot in knots]),
        velocity_mps=reference.velocity_mps,
        yaw_rate_radps=reference.yaw_rate_radps,
        world_SE3_ego=reference.world_SE3_ego,
        source=MotionSource.POSES,
    )


def swept_points(scene: SceneView, sweep: LidarSweep, ego_SE3_sensor: F64, reference_ns: int) -> F64:
    """Points (N, 3) of a sweep in the ego frame at `reference_ns`, deskewed with the true motion."""
    points = transform_points(ego_SE3_sensor, sweep.points_m.astype(np.float64))
    times = np.full(len(points), sweep.capture_ns, dtype=np.int64)
    if sweep.motion is SweepMotion.RAW and sweep.point_offset_ns is not None:
        times = times + sweep.point_offset_ns
    if len(points) == 0:
        return points
    motion = true_motion(scene, int(times.min()), int(times.max()), reference_ns)
    return motion.move_points(points, times).astype(np.float64)


def count_inside(points_m: F64, ego_SE3_box: F64, size_m: F64) -> NDArray[np.int64]:
    """How many of the points (N, 3) lie in each of the boxes: (K,)."""
    order = np.argsort(points_m[:, 0], kind="stable")
    points = points_m[order]
    counts = np.zeros(len(size_m), dtype=np.int64)
    reach = np.linalg.norm(size_m, axis=1) / 2
    center = ego_SE3_box[:, :3, 3]
    low = np.searchsorted(points[:, 0], center[:, 0] - reach)
    high = np.searchsorted(points[:, 0], center[:, 0] + reach)
    for k in range(len(size_m)):
        local = (points[low[k] : high[k]] - center[k]) @ ego_SE3_box[k, :3, :3]
        counts[k] = int(np.all(np.abs(local) <= size_m[k] / 2, axis=1).sum())
    return counts


def drivable_raster(
    contains: Callable[[F64], NDArray[np.bool_]], pose: EgoPose, half_m: float, cell_m: float
) -> NDArray[np.bool_]:
    """(H, W) around the ego, True where one may drive; row 0 is furthest back, column 0 furthest right.

    contains: whether world points (N, 2) are drivable.
    """
    cells = round(2 * half_m / cell_m)
    middle = (np.arange(cells) + 0.5) * cell_m - half_m
    x, y = np.meshgrid(middle, middle, indexing="ij")
    flat = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    return contains(transform_points(pose.world_SE3_ego, flat)[:, :2]).reshape(cells, cells)


def future_path(scene: SceneView, reference_ns: int, times_s: F64) -> F64:
    """Where the ego is `times_s` (W,) after the reference, seen from there: (W, 2). Known only once it was driven.

    Raises ValueError where that lies beyond what was simulated.
    """
    last_ns = reference_ns + round(float(times_s[-1]) * 1e9)
    if last_ns > scene.horizon_ns:
        raise ValueError(f"the ego's path is known to {scene.horizon_ns} ns, not to {last_ns} ns")
    ego_SE3_world = invert(scene.ego_at(reference_ns).world_SE3_ego)
    places = [scene.ego_at(reference_ns + round(float(t) * 1e9)).world_SE3_ego[:3, 3] for t in times_s]
    return transform_points(ego_SE3_world, np.array(places))[:, :2]


def line_ahead(line_m: F64, pose: EgoPose) -> F64:
    """A line of the map (N, 2 or 3, world) in the ego frame: (N, 2)."""
    flat = np.column_stack([line_m[:, :2], np.full(len(line_m), pose.world_SE3_ego[2, 3])])
    return transform_points(invert(pose.world_SE3_ego), flat)[:, :2]


def _returns_on(scene: SceneView, scan: RadarScan, ego_SE3_sensor: F64, actors: NDArray[np.int64]) -> NDArray[np.int64]:
    boxes = boxes_at(scene, scan.capture_ns, 2 * LABEL_RANGE_M)
    points = transform_points(ego_SE3_sensor, scan.points_m[scan.is_valid].astype(np.float64))
    center, rotation = boxes.ego_SE3_box[:, :2, 3], boxes.ego_SE3_box[:, :2, :2]
    local = np.einsum("nki,kij->nkj", points[:, None, :2] - center, rotation)
    is_over = np.all(np.abs(local) <= boxes.size_m[:, :2] / 2 + RADAR_MARGIN_M, axis=2)
    counted = dict(zip(boxes.states.actor_id.tolist(), is_over.sum(axis=0).tolist(), strict=True))
    return np.array([counted.get(int(actor), 0) for actor in actors], dtype=np.int64)


def _rows(states: ActorStates, keep: NDArray[np.bool_]) -> ActorStates:
    return ActorStates(
        time_ns=states.time_ns,
        actor_id=states.actor_id[keep],
        model=tuple(name for name, is_kept in zip(states.model, keep, strict=True) if is_kept),
        phase=states.phase[keep],
        world_SE3_actor=states.world_SE3_actor[keep],
        velocity_mps=states.velocity_mps[keep],
        yaw_rate_radps=states.yaw_rate_radps[keep],
        attribute_index=states.attribute_index[keep],
    )
