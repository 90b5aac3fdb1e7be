"""Padded point clouds: which points are real, which lie in a box, and how to throw some away."""

import torch
from torch import Tensor

from perception.models.boxes import CENTER, LOG_SIZE

MOST_BOXES = 250
"""At most so many boxes are told apart in one call of `box_of`."""
RADAR_MARGIN_M = 0.5
"""How far outside the footprint of an object its radar returns may lie."""


def is_real(points: Tensor, count: Tensor) -> Tensor:
    """(..., P), True for the first `count` (...) of points (..., P, F)."""
    return torch.arange(points.shape[-2], device=points.device) < count[..., None]


def compact(points: Tensor, is_kept: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Points (..., length, F) with those of (..., P, F) in front that are kept (..., P), zeros behind; and how many.

    The order stays. What is kept beyond `length` is lost.
    """
    rank = is_kept.cumsum(dim=-1)  # (..., P), from 1
    place = torch.where(is_kept & (rank <= length), rank - 1, length)  # the last place is thrown away
    packed = points.new_zeros(*points.shape[:-2], length + 1, points.shape[-1])
    packed.scatter_(-2, place[..., None].expand_as(points), points)
    return packed[..., :length, :], is_kept.sum(dim=-1).clamp(max=length)


def box_of(
    points_m: Tensor,
    boxes: Tensor,
    is_asked: Tensor,
    *,
    lift_m: float = 0.0,
    flat_margin_m: float | None = None,
) -> Tensor:
    """Which box each of the points (B, P, 3) lies in, (B, P) int64; -1 for none. The last one where boxes overlap.

    boxes: (B, J, 10), of which only those that `is_asked` (B, J) count, J at most `MOST_BOXES`. lift_m: height above
    the floor of a box below which a point is not in it. flat_margin_m: ignore heights and widen footprints by this,
    for radars, which measure no elevation.
    """
    if boxes.shape[1] == 0:
        return torch.full(points_m.shape[:2], -1, dtype=torch.int64, device=points_m.device)
    sine, cosine = boxes[..., 6], boxes[..., 7]
    axes = torch.stack([cosine, sine, -sine, cosine], dim=-1).view(*sine.shape, 2, 2)  # (B, J, 2, 2)
    center = (axes @ boxes[..., :2, None])[..., 0]  # (B, J, 2)
    half = boxes[..., LOG_SIZE].exp() / 2 + (flat_margin_m or 0.0)  # (B, J, 3)
    half = half.masked_fill(~is_asked[..., None], -1.0)
    flat = points_m[..., :2].transpose(1, 2)  # (B, 2, P)
    is_inside = (axes[..., 0, :] @ flat - center[..., :1]).abs_() <= half[..., :1]  # (B, J, P)
    is_inside &= (axes[..., 1, :] @ flat - center[..., 1:]).abs_() <= half[..., 1:2]
    if flat_margin_m is None:
        height, middle = points_m[:, None, :, 2], boxes[..., CENTER][..., 2:]  # (B, 1, P), (B, J, 1)
        is_inside &= (height <= middle + half[..., 2:]) & (height >= middle - half[..., 2:] + lift_m)
    number = torch.arange(1, boxes.shape[1] + 1, dtype=torch.uint8, device=boxes.device)
    owner: Tensor = (is_inside * number[:, None]).amax(dim=1).long() - 1
    return owner
