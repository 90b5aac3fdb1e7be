"""All losses of a batch and their weighted sum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.config.training import LossConfig
from perception.training.batch import TrainingBatch
from perception.training.forward import Outputs
from perception.training.losses_decoder import decoder_losses, denoising_loss
from perception.training.losses_dense import dense_losses
from perception.training.losses_image import image_losses
from perception.training.losses_path import path_losses
from perception.training.losses_terms import Divisor, at_least_one
from perception.training.matching import match
from perception.training.targets import objects_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Losses:
    """total: () the sum of parts. parts: by the names of `LossConfig`, each () and weighted, without gradient."""

    total: Tensor
    parts: dict[str, Tensor]


def compute_losses(
    outputs: Outputs,
    batch: TrainingBatch,
    config: LossConfig,
    model: ModelConfig,
    divisor: Divisor = at_least_one,
) -> Losses:
    """Every loss is finite, with finite gradients, whatever is missing: objects, sensors, path, map.

    Each is a mean over what it is about in this batch (objects, cells, frames), so that its size does not depend on
    how much of that there is. divisor: see `Divisor`.
    """
    objects = objects_of(batch, model)
    tensors, queries = outputs.tensors, outputs.queries
    matches = match(tensors.class_logits[:, :, :queries], tensors.boxes[:, :, :queries], objects)
    raw = {
        **dense_losses(tensors, batch, objects, config, model, divisor),
        **decoder_losses(outputs, objects, matches, config, divisor),
        **path_losses(tensors, batch, config.mode_softness_m, divisor),
        **image_losses(outputs, batch, objects, model, divisor),
        "denoising": denoising_loss(outputs, objects, config, divisor),
    }
    weighted = {name: getattr(config, name) * loss for name, loss in raw.items()}
    total = torch.stack(list(weighted.values())).sum()
    return Losses(total=total, parts={name: loss.detach() for name, loss in weighted.items()})
