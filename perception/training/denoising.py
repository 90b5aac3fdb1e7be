"""Noisy copies of the labels, which the decoder learns to mend before its own queries are any good."""

import torch
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.config.training import LossConfig
from perception.core.taxonomy import CLASSES
from perception.models.boxes import CENTER, LOG_SIZE, VELOCITY, YAW
from perception.models.queries import DenoisingQueries
from perception.training.batch import TrainingBatch
from perception.training.targets import objects_of

LABEL_NOISE = 0.2
"""Share of copies with a random class."""
MIN_SHIFT_M = 1.0
"""A centre moves by up to half the object's length, or this much: about what a cell of the dense head is off by."""
HEIGHT_SHARE = 0.3
"""Of the horizontal shift, how much a centre moves up or down."""
SIZE_NOISE = 0.25
"""Deviation of the logarithm of size."""
YAW_NOISE_RAD = 0.5
VELOCITY_NOISE_MPS = 1.5


def noisy_copies(
    batch: TrainingBatch, config: LossConfig, model: ModelConfig, generator: torch.Generator
) -> DenoisingQueries | None:
    """`config.denoising_queries` copies a frame: all objects once (a group), then again with other noise, and so on.

    Of more objects than copies a random choice is taken. A frame without objects has copies that are not real. None
    where the configuration wants no denoising.
    """
    count = config.denoising_queries
    if count == 0 or config.denoising == 0:
        return None
    objects = objects_of(batch, model)
    batch_size, device = len(batch), objects.boxes.device
    if objects.is_object.shape[1] == 0:
        objects = objects.padded(1)
    # Objects in random order, padding behind them.
    chance = torch.rand(objects.is_object.shape, generator=generator, device=device)
    order = (chance + (~objects.is_object).float()).argsort(dim=1)  # (B, M)
    many = objects.is_object.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
    number = torch.arange(count, device=device).expand(batch_size, -1)  # (B, R)
    source = order.gather(1, number % many)  # (B, R)
    label = objects.class_index.gather(1, source)
    is_wrong = torch.rand(label.shape, generator=generator, device=device) < LABEL_NOISE
    other = torch.randint(len(CLASSES), label.shape, generator=generator, device=device)
    return DenoisingQueries(
        class_index=torch.where(is_wrong, other, label),
        boxes=_disturbed(objects.boxes_at(source), generator),
        group=number // many,
        is_real=objects.is_object.gather(1, source),
        source=source,
    )


def _disturbed(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """Boxes (B, R, 10) moved, resized, turned and with another speed."""

    def uniform(fields: int) -> Tensor:
        shape = (*boxes.shape[:2], fields)
        return torch.rand(shape, generator=generator, device=boxes.device) * 2 - 1

    def normal(fields: int) -> Tensor:
        return torch.randn((*boxes.shape[:2], fields), generator=generator, device=boxes.device)

    noisy = boxes.clone()
    reach = (boxes[..., LOG_SIZE].exp().amax(dim=-1, keepdim=True) / 2).clamp(min=MIN_SHIFT_M)  # (B, R, 1)
    shift = uniform(3) * reach
    shift[..., 2] *= HEIGHT_SHARE
    noisy[..., CENTER] += shift
    noisy[..., LOG_SIZE] += normal(3) * SIZE_NOISE
    turn = normal(1) * YAW_NOISE_RAD
    sin, cos = boxes[..., YAW].tensor_split(2, dim=-1)
    noisy[..., YAW] = torch.cat([sin * turn.cos() + cos * turn.sin(), cos * turn.cos() - sin * turn.sin()], dim=-1)
    noisy[..., VELOCITY] += normal(2) * VELOCITY_NOISE_MPS
    return noisy
