"""How much of each actor can be seen past the others and the scenery."""

import numpy as np
from numpy.typing import NDArray

from perception.core.rig import Modality, SensorRig
from sim.scene import SceneView
from sim.sensors.scene_caster import Rays, SceneCaster
from sim.sensors.tracks import ActorTracks
from sim.truth import LABEL_RANGE_M, Boxes

F64 = NDArray[np.float64]

SPREAD = (5, 3, 5)
"""Points aimed at along length, width and height of a box."""


def eye_of(rig: SensorRig) -> F64:
    """(3,) the middle of the rig's cameras in the ego frame, or of its sensors where it has none."""
    sensors = rig.of(Modality.CAMERA) or rig.sensors
    middle: F64 = np.mean([sensor.ego_SE3_sensor[:3, 3] for sensor in sensors], axis=0)
    return middle


def visible_share(scene: SceneView, caster: SceneCaster, boxes: Boxes, eye_ego_m: F64) -> F64:
    """(K,) share 0..1 of each box's actor that is in view from the eye (3,), whichever way it looks.

    Rays go to a grid of points in each box; counted are those that meet the actor first, of those that would meet it
    if nothing stood before it.
    """
    if len(boxes.states) == 0:
        return np.zeros(0)
    time_ns = boxes.states.time_ns
    world_SE3_ego = scene.ego_at(time_ns).world_SE3_ego
    eye = world_SE3_ego[:3, :3] @ eye_ego_m + world_SE3_ego[:3, 3]
    world_SE3_box = world_SE3_ego @ boxes.ego_SE3_box
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in SPREAD]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    local = grid * boxes.size_m[:, None]
    points = np.einsum("kij,knj->kni", world_SE3_box[:, :3, :3], local) + world_SE3_box[:, None, :3, 3]
    aims = points.reshape(-1, 3) - eye
    direction = (aims / np.linalg.norm(aims, axis=1, keepdims=True)).T.astype(np.float32)
    tracks = ActorTracks.sample(scene, np.array([time_ns], dtype=np.int64))
    rays = Rays(origin_m=eye.astype(np.float32)[:, None], direction=np.ascontiguousarray(direction))
    hits = caster.cast(rays, tracks, LABEL_RANGE_M + 20.0, counts_hidden=True)
    share = hits.seen() / np.maximum(hits.crossed, 1)
    row = {int(actor): i for i, actor in enumerate(tracks.states.actor_id)}
    return np.array([share[row[int(actor)]] for actor in boxes.states.actor_id])
