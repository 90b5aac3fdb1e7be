"""What is true of each image token: which objects have their centre there, and how far away things are."""

import torch
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.taxonomy import CLASSES
from perception.models.boxes import CENTER, LOG_SIZE
from perception.models.encoders.camera import STRIDE
from perception.training.batch import CAMERA_FIELDS, TrainingBatch
from perception.training.projection import Projected, project
from perception.training.targets import Objects

REACH = 1
"""Tokens to each side of a centre's own that its heat reaches."""
SIGMA_TOKENS = (0.4, 0.8)
SIGMA_PER_SIZE = 1 / 4
"""Deviation of an object's heat as a share of how large it looks, within the bounds of `SIGMA_TOKENS`."""
POINT_STRIDE = 2
"""Every so-manieth lidar point is looked at: a token has several."""


def image_targets(batch: TrainingBatch, objects: Objects, model: ModelConfig) -> tuple[Tensor, Tensor]:
    """Heat (B, N, classes, h, w) in 0..1, and depth (B, N, T) in metres, infinite where not known.

    Depth is that of the nearest lidar point in a token, whether or not the network was given the lidar, and else that
    of the nearest object whose centre is there. Cameras that are not present see nothing.
    """
    rows, columns = model.image.height_px // STRIDE, model.image.width_px // STRIDE
    centres = project(batch, objects.boxes[..., CENTER])  # (B, N, M)
    is_seen = centres.is_seen & objects.is_object[:, None]
    heat = _heat(batch, objects, centres, is_seen, (rows, columns))
    of_objects = _nearest(centres, is_seen, rows, columns)  # (B, N, T)
    points, is_real = _lidar_points(batch)
    seen = project(batch, points)  # (B, N, P)
    of_points = _nearest(seen, seen.is_seen & is_real[:, None], rows, columns)
    return heat, torch.where(of_points.isfinite(), of_points, of_objects)


def _lidar_points(batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """Points (B, P, 3) of all lidars, and which of them are real (B, P)."""
    points = batch.lidar_points[:, :, ::POINT_STRIDE, :3]  # (B, L, P, 3)
    number = torch.arange(0, batch.lidar_points.shape[2], POINT_STRIDE, device=points.device)
    return points.flatten(1, 2), (number < batch.lidar_count[..., None]).flatten(1)


def _token(seen: Projected, is_seen: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row and column (B, N, M) of the token that each point falls into, 0 where it is not seen."""
    column, row = (torch.where(is_seen, (pixel + 0.5) / STRIDE, 0.0).long() for pixel in (seen.u_px, seen.v_px))
    return row.clamp(max=rows - 1), column.clamp(max=columns - 1)


def _nearest(seen: Projected, is_seen: Tensor, rows: int, columns: int) -> Tensor:
    """Least distance (B, N, T) of the points seen in each token, infinite where there is none."""
    row, column = _token(seen, is_seen, rows, columns)
    distance = torch.where(is_seen, seen.distance_m, torch.inf)
    nearest = distance.new_full((*distance.shape[:2], rows * columns), torch.inf)
    return nearest.scatter_reduce(2, row * columns + column, distance, "amin")


def _heat(
    batch: TrainingBatch, objects: Objects, centres: Projected, is_seen: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Heat (B, N, classes, h, w): 1 in the token of each centre, and a Gaussian around it that grows with size."""
    rows, columns = shape
    row, column = _token(centres, is_seen, rows, columns)  # (B, N, M)
    line = torch.arange(-REACH, REACH + 1, device=row.device)
    steps = torch.cartesian_prod(line, line)  # (W, 2)
    focal = batch.cameras[..., CAMERA_FIELDS.index("fx"), None]  # (B, N, 1)
    side_m = objects.boxes[..., LOG_SIZE].mean(dim=-1).exp()  # (B, M)
    looks = focal * side_m[:, None] / (centres.distance_m.clamp(min=1.0) * STRIDE)  # (B, N, M) tokens
    sigma = (looks * SIGMA_PER_SIZE).clamp(*SIGMA_TOKENS)[..., None]  # (B, N, M, 1)
    heat = torch.exp(-steps.square().sum(dim=-1) / (2 * sigma.square()))  # (B, N, M, W)
    v, u = row[..., None] + steps[:, 0], column[..., None] + steps[:, 1]  # (B, N, M, W)
    is_inside = (v >= 0) & (v < rows) & (u >= 0) & (u < columns) & is_seen[..., None]
    place = (objects.class_index[:, None, :, None] * rows + v.clamp(0, rows - 1)) * columns + u.clamp(0, columns - 1)
    target = heat.new_zeros(*heat.shape[:2], len(CLASSES) * rows * columns)
    target = target.scatter_reduce(2, place.flatten(2), (heat * is_inside).flatten(2), "amax")
    return target.view(*heat.shape[:2], len(CLASSES), rows, columns)
