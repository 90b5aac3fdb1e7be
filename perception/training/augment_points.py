"""Other points: another lidar's intensity, fewer points, a little noise; and none outside the network's range."""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from perception.config.schema import ModelConfig
from perception.config.training import AugmentConfig
from perception.models.preprocess import LIDAR_FIELDS, Z_RANGE_M
from perception.training.batch import TrainingBatch
from perception.training.clouds import compact, is_real
from perception.training.draws import normal, uniform

_INTENSITY = LIDAR_FIELDS.index("intensity")


def augment_points(
    batch: TrainingBatch, config: AugmentConfig, model: ModelConfig, generator: Generator
) -> TrainingBatch:
    """A batch with other lidar and radar points; those outside the range are gone. Radars get no noise: theirs is
    larger than any that would be worth adding."""
    lidar = batch.lidar_points
    if config.intensity:
        lidar = _change_intensity(lidar, config.intensity, generator)
    if config.jitter_m:
        noise = normal(generator, lidar.device, *lidar.shape[:-1], 3) * config.jitter_m
        lidar = torch.cat([lidar[..., :3] + noise, lidar[..., 3:]], dim=-1)
    points, count = _thin(lidar, batch.lidar_count, config, model.range_m, generator)
    returns, returned = _thin(batch.radar_points, batch.radar_count, config, model.range_m, generator)
    return replace(batch, lidar_points=points, lidar_count=count, radar_points=returns, radar_count=returned)


def _change_intensity(points: Tensor, strength: float, generator: Generator) -> Tensor:
    """Points (B, L, P, 5) with a gain and an offset for each sweep."""
    draw = uniform(generator, points.device, *points.shape[:2], 1, 2, low=-strength, high=strength)  # (B, L, 1, 2)
    intensity = (points[..., _INTENSITY] * (1 + draw[..., 0]) + draw[..., 1]).clamp(0, 1)
    before, after = points[..., :_INTENSITY], points[..., _INTENSITY + 1 :]
    return torch.cat([before, intensity[..., None], after], dim=-1)


def _thin(
    points: Tensor, count: Tensor, config: AugmentConfig, range_m: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Clouds (..., P, F) and counts (...) without a random share of their points and without those out of range."""
    is_kept = is_real(points, count) & (points[..., :2].abs() < range_m).all(dim=-1)
    is_kept &= (points[..., 2] > Z_RANGE_M[0]) & (points[..., 2] < Z_RANGE_M[1])
    if config.drop_points:
        share = uniform(generator, points.device, *count.shape, high=config.drop_points)
        is_kept &= uniform(generator, points.device, *points.shape[:-1]) >= share[..., None]
    return compact(points, is_kept, points.shape[-2])
