"""Another world: mirrored, turned, scaled and shifted, with everything that sensors and labels say of it.

Everything in ego axes moves by the same affine map, the cameras' poses included, so that a camera sees each point on
the pixel it was on. A turned world says nothing of the path: no vehicle drives off askew to its own axes.
"""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional

from perception.config.training import AugmentConfig
from perception.core.messages import Command
from perception.core.taxonomy import NO_ATTRIBUTE, NO_CLASS
from perception.models.blocks import cell_centers
from perception.models.boxes import CENTER, LOG_SIZE, VELOCITY
from perception.models.tensors import EGO_FIELDS
from perception.training.batch import TrainingBatch
from perception.training.draws import uniform
from perception.training.projection import inverse_affine

_MIRRORED_COMMAND = {
    Command.LEFT: Command.RIGHT,
    Command.RIGHT: Command.LEFT,
    Command.CHANGE_LEFT: Command.CHANGE_RIGHT,
    Command.CHANGE_RIGHT: Command.CHANGE_LEFT,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorldChange:
    """What happens to the world of each of B samples, in this order.

    is_mirrored: (B,) bool, y to -y. rotation_rad: (B,) about z, counter-clockwise. scale: (B,). shift_m: (B, 2),
    level: the ground stays where networks expect it.
    """

    is_mirrored: Tensor
    rotation_rad: Tensor
    scale: Tensor
    shift_m: Tensor

    @property
    def sign(self) -> Tensor:
        """(B,) -1 where mirrored, else 1."""
        return 1.0 - 2.0 * self.is_mirrored

    def affine(self) -> Tensor:
        """changed_SE3_ego (B, 4, 4); no rigid transform where it mirrors or scales."""
        cosine, sine = self.rotation_rad.cos() * self.scale, self.rotation_rad.sin() * self.scale
        zero, one = torch.zeros_like(sine), torch.ones_like(sine)
        rows = (
            (cosine, -sine * self.sign, zero, self.shift_m[:, 0]),
            (sine, cosine * self.sign, zero, self.shift_m[:, 1]),
            (zero, zero, self.scale, zero),
            (zero, zero, zero, one),
        )
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def draw_change(samples: int, config: AugmentConfig, generator: Generator, device: torch.device) -> WorldChange:
    """A change for each of the samples, uniform within what `config` allows."""
    turn, size, shift = config.rotation_deg * torch.pi / 180, config.scale, config.translation_m
    is_turned = uniform(generator, device, samples) < config.rotation
    return WorldChange(
        is_mirrored=uniform(generator, device, samples) < config.flip,
        rotation_rad=uniform(generator, device, samples, low=-turn, high=turn) * is_turned,
        scale=uniform(generator, device, samples, low=1 - size, high=1 + size),
        shift_m=uniform(generator, device, samples, 2, low=-shift, high=shift),
    )


def change_world(batch: TrainingBatch, change: WorldChange, range_m: float) -> TrainingBatch:
    """The same batch in the changed world. Points may lie outside the range afterwards (`augment_points` crops them).

    Labels whose centres leave the square of half side `range_m` become padding. Images are left alone.
    """
    affine = change.affine()
    is_kept, boxes = _boxes(batch, change, affine, range_m)
    drivable, drivable_known = _drivable(batch, affine, range_m)
    flat = affine[:, :2, :2].transpose(1, 2)  # (B, 2, 2), for row vectors
    radar = _points(batch.radar_points, affine)
    return replace(
        batch,
        reference_SE3_camera=affine[:, None] @ batch.reference_SE3_camera,
        lidar_points=_points(batch.lidar_points.flatten(1, 2), affine).view_as(batch.lidar_points),
        radar_points=torch.cat([radar[..., :4], radar[..., 4:6] @ flat, radar[..., 6:]], dim=-1),
        ego=_ego(batch.ego, change, affine),
        class_index=batch.class_index.masked_fill(~is_kept, NO_CLASS),
        attribute_index=batch.attribute_index.masked_fill(~is_kept, NO_ATTRIBUTE),
        boxes=boxes.masked_fill(~is_kept[..., None], 0.0),
        path_m=batch.path_m @ flat + change.shift_m[:, None],
        path_known=batch.path_known & (change.rotation_rad == 0)[:, None],
        target_speed_mps=batch.target_speed_mps * change.scale,
        drivable=drivable,
        drivable_known=drivable_known,
    )


def _points(points: Tensor, affine: Tensor) -> Tensor:
    """Points (B, P, F) whose first three columns are a position."""
    moved = points[..., :3] @ affine[:, :3, :3].transpose(1, 2) + affine[:, None, :3, 3]
    return torch.cat([moved, points[..., 3:]], dim=-1)


def _boxes(batch: TrainingBatch, change: WorldChange, affine: Tensor, range_m: float) -> tuple[Tensor, Tensor]:
    """Which labels stay (B, M), and all boxes (B, M, 10) in the changed world."""
    boxes = batch.boxes
    center = boxes[..., CENTER] @ affine[:, :3, :3].transpose(1, 2) + affine[:, None, :3, 3]
    size = boxes[..., LOG_SIZE] + change.scale.log()[:, None, None]
    sine, cosine = boxes[..., 6] * change.sign[:, None], boxes[..., 7]
    turn_sine, turn_cosine = change.rotation_rad.sin()[:, None], change.rotation_rad.cos()[:, None]
    yaw = [sine * turn_cosine + cosine * turn_sine, cosine * turn_cosine - sine * turn_sine]
    velocity = boxes[..., VELOCITY] @ affine[:, :2, :2].transpose(1, 2)
    is_kept = (batch.class_index >= 0) & (center[..., :2].abs() < range_m).all(dim=-1)
    return is_kept, torch.cat([center, size, torch.stack(yaw, dim=-1), velocity], dim=-1)


def _ego(ego: Tensor, change: WorldChange, affine: Tensor) -> Tensor:
    """Ego vectors (B, E): speeds scaled, turns and commands mirrored, the route's target moved along."""
    column = {name: ego[:, place] for place, name in enumerate(EGO_FIELDS)}
    changed = dict(column)
    changed["speed_mps"] = column["speed_mps"] * change.scale
    changed["speed_limit_mps"] = column["speed_limit_mps"] * change.scale
    changed["route_distance_m"] = column["route_distance_m"] * change.scale
    target = torch.stack([column["route_target_x_m"], column["route_target_y_m"]], dim=-1)  # (B, 2)
    target = (affine[:, :2, :2] @ target[..., None])[..., 0] + affine[:, :2, 3]
    target = target * column["route_target_is_known"][:, None]
    changed["route_target_x_m"], changed["route_target_y_m"] = target.unbind(dim=-1)
    changed["yaw_rate_radps"] = column["yaw_rate_radps"] * change.sign
    for command, other in _MIRRORED_COMMAND.items():
        is_given, is_other = column[f"command_{command}"], column[f"command_{other}"]
        changed[f"command_{command}"] = torch.where(change.is_mirrored, is_other, is_given)
    return torch.stack([changed[name] for name in EGO_FIELDS], dim=-1)


def _drivable(batch: TrainingBatch, affine: Tensor, range_m: float) -> tuple[Tensor, Tensor]:
    """Drivable share (B, G, G) and where it is known: each cell looks up where its centre was before the change."""
    cells = batch.drivable.shape[-1]
    linear, offset = inverse_affine(affine)
    with affine.device:  # made there: a copy would wait for a GPU
        centers = cell_centers(cells) * range_m  # (G * G, 2)
    before = (centers @ linear[:, :2, :2].transpose(1, 2) + offset[:, None, :2]) / range_m  # (B, G * G, 2)
    grid = before.flip(-1).view(-1, cells, cells, 2)  # columns (y) first, as grid_sample wants them
    known = batch.drivable_known.float()
    layers = torch.stack([batch.drivable * known, known], dim=1)  # (B, 2, G, G)
    drivable, known = functional.grid_sample(layers, grid, align_corners=False).unbind(dim=1)
    return drivable / known.clamp(min=1e-6), known > 0.5
