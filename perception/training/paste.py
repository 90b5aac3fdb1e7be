"""Objects of one frame pasted into another: their points, their returns, their pictures and their labels.

An object keeps its place before the ego, so that points are as dense and pictures as large as they should be. It is
pasted whole or not at all, so that sensors agree: only where the receiver has free space in its labels, in its points
and on its path, and where each camera of both frames either sees all of it, with no labelled object before it, or
nothing of it. The picture is the rectangle around the box, scaled from the donor's camera to the receiver's; what lies
behind the object within that rectangle comes along. Lidar points that the object would now hide stay.
(After Yan et al., SECOND, Sensors 2018, and Wang et al., PointAugmenting, CVPR 2021.)
"""

import math
from dataclasses import fields, replace

import torch
from torch import Generator, Tensor

from perception.config.schema import ModelConfig
from perception.core.taxonomy import NO_ATTRIBUTE, NO_CLASS
from perception.models.boxes import LOG_SIZE
from perception.training.batch import TrainingBatch
from perception.training.clouds import MOST_BOXES, RADAR_MARGIN_M, box_of, compact, is_real
from perception.training.draws import uniform
from perception.training.patches import Rectangles, copy_patches

FLOOR_M = 0.3
"""Points so little above the floor of a box are ground, not something in its way."""
MOST_IN_THE_WAY = 3
"""Points of the receiver within a box above which the place is taken."""
FEWEST_POINTS = 5
"""An object with fewer lidar points is not worth pasting."""
PATH_MARGIN_M = 1.5
"""Half the width of the ego, and a bit, that a pasted object keeps from the way that was driven."""
MOST_ZOOM = 1.3
"""Between the object's sizes on the donor's image and on the receiver's; more would look unlike a camera's picture."""


def paste(batch: TrainingBatch, count: int, model: ModelConfig, generator: Generator) -> TrainingBatch:
    """Give every frame at most `count` objects of the frame before it in the batch; labels come behind the others.

    Which ones is drawn; an object of a class that is n times as frequent in the batch is tried 1 / n times as often.
    The batch must not be augmented yet. Pasted boxes have all that the donor's label has, their velocity included.
    """
    count = min(count, batch.boxes.shape[1], MOST_BOXES)
    if len(batch) < 2 or count == 0:
        return batch
    donor = replace(batch, **{field.name: getattr(batch, field.name).roll(1, dims=0) for field in fields(batch)})
    chosen = preference(donor.class_index, generator).topk(count, dim=1).indices  # (B, J)
    boxes = donor.boxes.gather(1, chosen[..., None].expand(-1, -1, donor.boxes.shape[2]))  # (B, J, 10)
    classes, attributes = donor.class_index.gather(1, chosen), donor.attribute_index.gather(1, chosen)
    here, there = Rectangles.of(batch, boxes), Rectangles.of(donor, boxes)

    is_pasted = (classes >= 0) & _same_sensors(batch, donor)[:, None] & _is_free(batch, boxes)
    is_pasted &= _fits(batch, donor, here, there)
    points, real = _all_sweeps(donor)
    owner = box_of(points[..., :3], boxes, is_pasted)  # (B, L * P)
    is_pasted &= (_count(owner, real, count) >= FEWEST_POINTS) | ~donor.lidar_present.any(dim=1, keepdim=True)
    is_pasted &= ~here.hidden_by(here, is_pasted)
    return replace(
        _with_returns(_with_points(batch, donor, owner, is_pasted, model), donor, boxes, is_pasted, model),
        images=copy_patches(batch.images, donor.images, here, there, is_pasted),
        class_index=torch.cat([batch.class_index, classes.masked_fill(~is_pasted, NO_CLASS)], dim=1),
        boxes=torch.cat([batch.boxes, boxes.masked_fill(~is_pasted[..., None], 0.0)], dim=1),
        attribute_index=torch.cat([batch.attribute_index, attributes.masked_fill(~is_pasted, NO_ATTRIBUTE)], dim=1),
    )


def preference(class_index: Tensor, generator: Generator) -> Tensor:
    """Order (B, M) in which objects (B, M) are tried, highest first, rows without a label last: a weighted draw.

    (Efraimidis and Spirakis, Information Processing Letters 2006: the highest log(u) / weight.)
    """
    u = uniform(generator, class_index.device, *class_index.shape)
    is_same = class_index.flatten()[None] == class_index.flatten()[:, None]  # (B * M, B * M)
    frequency = is_same.sum(dim=1).view_as(class_index)
    return (u.clamp(min=1e-12).log() * frequency).masked_fill(class_index < 0, -math.inf)


def _same_sensors(batch: TrainingBatch, donor: TrainingBatch) -> Tensor:
    """(B,), True where what one frame's sensors may see of an object, the other's may too; cameras aside."""
    is_same = (batch.lidar_present == donor.lidar_present).all(dim=1)
    return is_same & (batch.radar_present == donor.radar_present)


def _radius(boxes: Tensor) -> Tensor:
    """Radius (B, J) of the circle around the footprint of each box."""
    length, width = boxes[..., LOG_SIZE][..., :2].exp().unbind(dim=-1)
    return torch.hypot(length, width) / 2


def _is_free(batch: TrainingBatch, boxes: Tensor) -> Tensor:
    """(B, J), True where a box meets no labelled box of the receiver, nothing in its points, and not its path."""
    place, radius = boxes[..., :2], _radius(boxes)
    gap = torch.cdist(place, batch.boxes[..., :2]) - radius[..., None] - _radius(batch.boxes)[:, None]  # (B, J, M)
    is_free = ((gap > 0) | (batch.class_index < 0)[:, None]).all(dim=-1)
    way = torch.cat([torch.zeros_like(batch.path_m[:, :1]), batch.path_m], dim=1)  # (B, S + 1, 2)
    is_known = torch.cat([torch.ones_like(batch.path_known[:, :1]), batch.path_known], dim=1)
    beside = torch.cdist(place, way.nan_to_num()) - radius[..., None] > PATH_MARGIN_M  # (B, J, S + 1)
    is_free &= (beside | ~is_known[:, None]).all(dim=-1)
    points, real = _all_sweeps(batch)
    owner = box_of(points[..., :3], boxes, torch.ones_like(is_free), lift_m=FLOOR_M)
    return is_free & (_count(owner, real, boxes.shape[1]) <= MOST_IN_THE_WAY)


def _fits(batch: TrainingBatch, donor: TrainingBatch, here: Rectangles, there: Rectangles) -> Tensor:
    """(B, J), True where each camera of both frames sees all of the object, about as large, or nothing of it."""
    is_alike = (here.is_whole == there.is_whole) & (here.is_partly == here.is_whole)
    is_alike &= there.is_partly == there.is_whole  # (B, N, J)
    size, other = (here.high_px - here.low_px), (there.high_px - there.low_px)  # (B, N, J, 2)
    zoom = (size / other.clamp(min=1.0)).clamp(min=1e-3).log().abs().amax(dim=-1)  # (B, N, J)
    is_large = (size >= 1.0).all(dim=-1) & (other >= 1.0).all(dim=-1)
    fits = is_alike & (~here.is_whole | (is_large & (zoom <= math.log(MOST_ZOOM))))
    in_front = here.hidden_by(Rectangles.of(batch, batch.boxes), batch.class_index >= 0)
    in_front |= there.hidden_by(Rectangles.of(donor, donor.boxes), donor.class_index >= 0)
    return fits.all(dim=1) & ~in_front


def _all_sweeps(batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """Points (B, L * P, 5) of the present lidars together, and which of them are real."""
    real = is_real(batch.lidar_points, batch.lidar_count) & batch.lidar_present[..., None]
    return batch.lidar_points.flatten(1, 2), real.flatten(1)


def _count(owner: Tensor, real: Tensor, boxes: int) -> Tensor:
    """How many real points (B, P) each of the boxes owns, (B, J)."""
    place = torch.where(real & (owner >= 0), owner, boxes)
    counts = torch.zeros(len(owner), boxes + 1, dtype=torch.int64, device=owner.device)
    return counts.scatter_add_(1, place, torch.ones_like(place))[:, :boxes]


def _is_given(owner: Tensor, is_pasted: Tensor) -> Tensor:
    """(B, P), True for points whose owner (B, P) is pasted (B, J)."""
    return is_pasted.gather(1, owner.clamp(min=0)) & (owner >= 0)


def _with_points(
    batch: TrainingBatch, donor: TrainingBatch, owner: Tensor, is_pasted: Tensor, model: ModelConfig
) -> TrainingBatch:
    """The receiver's sweeps with the objects' points before their own; above the cap of the model, own ones go."""
    is_given = _is_given(owner, is_pasted).view(donor.lidar_points.shape[:3])
    is_given &= is_real(donor.lidar_points, donor.lidar_count)
    is_kept = torch.cat([is_given, is_real(batch.lidar_points, batch.lidar_count)], dim=2)
    points = torch.cat([donor.lidar_points, batch.lidar_points], dim=2)
    points, count = compact(points, is_kept, min(points.shape[2], model.lidar.max_points))
    return replace(batch, lidar_points=points, lidar_count=count)


def _with_returns(
    batch: TrainingBatch, donor: TrainingBatch, boxes: Tensor, is_pasted: Tensor, model: ModelConfig
) -> TrainingBatch:
    """As `_with_points`, for the radars."""
    owner = box_of(donor.radar_points[..., :3], boxes, is_pasted, flat_margin_m=RADAR_MARGIN_M)
    is_given = _is_given(owner, is_pasted) & is_real(donor.radar_points, donor.radar_count)
    is_kept = torch.cat([is_given, is_real(batch.radar_points, batch.radar_count)], dim=1)
    points = torch.cat([donor.radar_points, batch.radar_points], dim=1)
    points, count = compact(points, is_kept, min(points.shape[1], model.radar.max_points))
    return replace(batch, radar_points=points, radar_count=count)
