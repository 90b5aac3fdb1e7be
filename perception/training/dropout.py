"""Sensors, and where the route goes, taken away from samples, so that fusion learns to work with whatever is there.

Whole kinds of sensors are lost; or one camera, a sector of the lidars' view, or freshness. A stale sweep or scan has
its age, and what moves is where it was then: the service takes out the ego's own motion (and so nothing that stands
still moves), but cannot take out that of others. Images are never made stale: where moving objects were on them
could only be had from an older image, and an age without its effect would teach that ages mean nothing.
"""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from perception.config.training import ModalityDropoutConfig
from perception.core.rig import Modality
from perception.models.boxes import VELOCITY
from perception.models.preprocess import MAX_OFFSET_S
from perception.models.tensors import EGO_FIELDS
from perception.training.batch import TrainingBatch
from perception.training.clouds import RADAR_MARGIN_M, box_of, compact, is_real
from perception.training.draws import uniform

SUBSETS = 2 ** len(Modality) - 2
"""Proper subsets of the kinds of sensors, the empty one aside; their numbers from 1 read as one bit a kind, so that 1
is cameras alone."""
CUT_RAD = (torch.pi / 3, torch.pi)
"""Least and largest sector that is cut from a lidar's view."""
STALE_S = (0.05, 0.5)
MOVING_BOXES = 32
"""Objects of a frame, the fastest first, whose motion a stale sensor shows."""


def drop_modalities(
    batch: TrainingBatch, config: ModalityDropoutConfig, generator: Generator, progress: float
) -> TrainingBatch:
    """A batch some samples of which have lost sensors; none has lost all. Nothing is dropped before `config.start`.

    progress: share of the schedule that is done, 0..1.
    """
    if progress < config.start:
        return batch
    device, samples = batch.ego.device, len(batch)
    draw = uniform(generator, device, samples)
    batch = _lose_kinds(batch, draw < config.subset, config.camera_alone, generator)
    is_degraded = (draw >= config.subset) & (draw < config.subset + config.degrade)
    way = uniform(generator, device, samples, high=3.0).floor()
    batch = _lose_camera(batch, is_degraded & (way == 0), generator)
    batch = _cut_view(batch, is_degraded & (way == 1), generator)
    batch = _make_stale(batch, is_degraded & (way == 2), generator)
    return _lose_target(batch, uniform(generator, device, samples) < config.route_target)


def _lose_target(batch: TrainingBatch, is_asked: Tensor) -> TrainingBatch:
    """Samples whose navigation does not say where the route goes."""
    is_target = torch.tensor([name.startswith("route_target") for name in EGO_FIELDS], device=is_asked.device)
    return replace(batch, ego=batch.ego.masked_fill(is_asked[:, None] & is_target, 0.0))


def only_modalities(batch: TrainingBatch, subset: frozenset[Modality]) -> TrainingBatch:
    """The batch with the sensors of these kinds alone; a sample without any of them is left with nothing."""
    return replace(
        batch,
        camera_present=batch.camera_present & (Modality.CAMERA in subset),
        lidar_present=batch.lidar_present & (Modality.LIDAR in subset),
        radar_present=batch.radar_present & (Modality.RADAR in subset),
    )


def _sensors(batch: TrainingBatch) -> Tensor:
    """How many sensors each sample has (the radars are one), (B,)."""
    return batch.camera_present.sum(dim=1) + batch.lidar_present.sum(dim=1) + batch.radar_present


def _lose_kinds(batch: TrainingBatch, is_asked: Tensor, camera_alone: float, generator: Generator) -> TrainingBatch:
    """Samples with a random proper subset of the kinds; all stay where a sample has none of those drawn."""
    number = _subset_number(uniform(generator, is_asked.device, len(batch)), camera_alone)
    keeps = [((number >> bit) & 1).bool() for bit in range(len(Modality))]
    camera, lidar, radar = keeps
    has = (batch.camera_present.any(dim=1) & camera) | (batch.lidar_present.any(dim=1) & lidar)
    is_spared = ~is_asked | ~(has | (batch.radar_present & radar))
    return replace(
        batch,
        camera_present=batch.camera_present & (camera | is_spared)[:, None],
        lidar_present=batch.lidar_present & (lidar | is_spared)[:, None],
        radar_present=batch.radar_present & (radar | is_spared),
    )


def _subset_number(draw: Tensor, camera_alone: float) -> Tensor:
    """From draws in 0..1 the number of a subset each: 1 for that share of them, evenly the others beyond."""
    edges = torch.linspace(camera_alone, 1.0, SUBSETS, device=draw.device)[:-1]
    return 1 + torch.bucketize(draw, edges, right=True)


def _lose_camera(batch: TrainingBatch, is_asked: Tensor, generator: Generator) -> TrainingBatch:
    """Samples without one of their cameras, unless it is their only sensor."""
    present = batch.camera_present
    if present.shape[1] == 0:
        return batch
    score = uniform(generator, present.device, *present.shape).masked_fill(~present, -1.0)
    is_lost = torch.zeros_like(present).scatter_(1, score.argmax(dim=1, keepdim=True), True)
    is_lost &= (is_asked & (_sensors(batch) > 1))[:, None]
    return replace(batch, camera_present=present & ~is_lost)


def _cut_view(batch: TrainingBatch, is_asked: Tensor, generator: Generator) -> TrainingBatch:
    """Samples whose lidars see nothing in a random sector."""
    samples, device = len(batch), is_asked.device
    middle = uniform(generator, device, samples, high=2 * torch.pi)
    width = uniform(generator, device, samples, low=CUT_RAD[0], high=CUT_RAD[1]).masked_fill(~is_asked, -1.0)
    rows = _rows_of(is_asked)
    points, count = batch.lidar_points[rows], batch.lidar_count[rows]
    azimuth = torch.atan2(points[..., 1], points[..., 0])  # (b, L, P)
    off = torch.remainder(azimuth - middle[rows, None, None] + torch.pi, 2 * torch.pi) - torch.pi
    is_seen = is_real(points, count) & (off.abs() > width[rows, None, None] / 2)
    points, count = compact(points, is_seen, points.shape[-2])
    return replace(
        batch,
        lidar_points=batch.lidar_points.index_copy(0, rows, points),
        lidar_count=batch.lidar_count.index_copy(0, rows, count),
    )


def _make_stale(batch: TrainingBatch, is_asked: Tensor, generator: Generator) -> TrainingBatch:
    """Samples whose lidars, or radars, are older than they were."""
    samples, device = len(batch), is_asked.device
    age = uniform(generator, device, samples, low=STALE_S[0], high=STALE_S[1]) * is_asked
    is_radar = batch.radar_present & ~batch.lidar_present.any(dim=1)
    is_radar |= batch.radar_present & (uniform(generator, device, samples) < 0.5)
    lidar_age, radar_age = age * ~is_radar, age * is_radar
    rows = _rows_of(is_asked)
    boxes, is_moving = _fastest(batch.boxes[rows], batch.class_index[rows])
    points = batch.lidar_points[rows]
    swept = _set_back(points.flatten(1, 2), boxes, is_moving, lidar_age[rows], None).view_as(points)
    scanned = _set_back(batch.radar_points[rows], boxes, is_moving, radar_age[rows], RADAR_MARGIN_M)
    return replace(
        batch,
        lidar_points=batch.lidar_points.index_copy(0, rows, swept),
        lidar_age_s=batch.lidar_age_s + lidar_age[:, None],
        radar_points=batch.radar_points.index_copy(0, rows, scanned),
        radar_age_s=batch.radar_age_s + radar_age,
    )


def _rows_of(is_asked: Tensor) -> Tensor:
    """Rows (b,) of samples to work on: those asked for; on a GPU all, where asking would mean to wait for it."""
    if is_asked.device.type == "cpu":
        return is_asked.nonzero()[:, 0]
    return torch.arange(len(is_asked), device=is_asked.device)


def _fastest(boxes: Tensor, class_index: Tensor) -> tuple[Tensor, Tensor]:
    """The fastest of boxes (b, M, 10), at most `MOVING_BOXES` of them, and whether they move at all."""
    speed = boxes[..., VELOCITY].nan_to_num().norm(dim=-1).masked_fill(class_index < 0, 0.0)  # (b, M)
    speed, place = speed.topk(min(MOVING_BOXES, boxes.shape[1]), dim=1)
    return boxes.gather(1, place[..., None].expand(-1, -1, boxes.shape[2])), speed > 0


def _set_back(points: Tensor, boxes: Tensor, is_moving: Tensor, age_s: Tensor, margin_m: float | None) -> Tensor:
    """Points (b, P, F) as they were age_s (b,) before: those in moving boxes (b, J, 10) further back on their way.

    The last column of points is their time from the reference.
    """
    if boxes.shape[1]:
        owner = box_of(points[..., :3], boxes, is_moving, flat_margin_m=margin_m)  # (b, P)
        velocity = boxes[..., VELOCITY].nan_to_num().gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, 2))
        way = (velocity * (owner >= 0)[..., None]) * age_s[:, None, None]  # (b, P, 2)
        points = torch.cat([points[..., :2] - way, points[..., 2:]], dim=-1)
    offset = (points[..., -1:] - age_s[:, None, None]).clamp(-MAX_OFFSET_S, MAX_OFFSET_S)
    return torch.cat([points[..., :-1], offset], dim=-1)
