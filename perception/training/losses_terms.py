"""The formulas that several losses share: sums or values per element, for the callers to divide by what they count."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from perception.core.taxonomy import CLASS_INDEX
from perception.models.boxes import VELOCITY, VELOCITY_SCALE, YAW
from perception.training.matching import FOCAL_ALPHA, FOCAL_GAMMA

PEAK_POWER: Final = 2.0
SLOPE_POWER: Final = 4.0
BARRIER: Final = CLASS_INDEX["barrier"]


def heat_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sum () of the Gaussian focal loss of heat logits against a target of the same shape whose peaks are exactly 1
    (Law and Deng, CornerNet, ECCV 2018)."""
    score, is_peak = logits.sigmoid(), target == 1
    found = (1 - score) ** PEAK_POWER * functional.softplus(-logits)
    quiet = (1 - target) ** SLOPE_POWER * score**PEAK_POWER * functional.softplus(logits)
    return torch.where(is_peak, found, quiet).sum()


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss of each element, target 0 or 1 (Lin et al., Focal Loss, ICCV 2017)."""
    score = logits.sigmoid()
    positive = FOCAL_ALPHA * (1 - score) ** FOCAL_GAMMA * functional.softplus(-logits)
    negative = (1 - FOCAL_ALPHA) * score**FOCAL_GAMMA * functional.softplus(logits)
    return target * positive + (1 - target) * negative


def box_error(
    boxes: Tensor, wanted: Tensor, class_index: Tensor, is_moving_known: Tensor, velocity_weight: float
) -> Tensor:
    """L1 distance (...) of boxes (..., 10) in the units of a head's raw outputs: metres, logarithms, sine and cosine,
    `VELOCITY_SCALE` m/s. class_index (...): a barrier has no front. is_moving_known (...): whether velocity counts."""
    error = (boxes - wanted).abs()
    turned = (boxes[..., YAW] + wanted[..., YAW]).abs().sum(dim=-1)
    yaw = error[..., YAW].sum(dim=-1)
    yaw = torch.where(class_index == BARRIER, torch.minimum(yaw, turned), yaw)
    velocity = error[..., VELOCITY].sum(dim=-1) * is_moving_known * (velocity_weight / VELOCITY_SCALE)
    return error[..., : YAW.start].sum(dim=-1) + yaw + velocity


Divisor = Callable[[Tensor], Tensor]
"""From how many things () a sum is of to what it is divided by, never 0. Where several processes hold a part of the
batch each, that is the mean over them (`Workers.divisor`)."""


def at_least_one(count: Tensor) -> Tensor:
    """The divisor of a process that holds the whole batch."""
    return count.clamp(min=1)


def mean_of(values: Tensor, is_counted: Tensor, divisor: Divisor = at_least_one) -> Tensor:
    """Mean () of the values (...) that count; 0, with gradients of 0, where none does."""
    return torch.where(is_counted, values, 0.0).sum() / divisor(is_counted.sum())
