"""Losses on the images: where objects are, and how far each token looks. They stand in for pre-training."""

import torch
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.models.heads.depth import depth_place
from perception.training.batch import TrainingBatch
from perception.training.forward import Outputs
from perception.training.losses_terms import Divisor, at_least_one, heat_loss, mean_of
from perception.training.targets import Objects
from perception.training.targets_image import image_targets

SILENT = -50.0
"""Logit that costs nothing where there is no object."""


def image_losses(
    outputs: Outputs, batch: TrainingBatch, objects: Objects, model: ModelConfig, divisor: Divisor = at_least_one
) -> dict[str, Tensor]:
    """`image_heatmap` and `image_depth`, unweighted; only cameras that are present count."""
    heat, depth_m = image_targets(batch, objects, model)
    is_present = batch.camera_present[:, :, None, None, None]
    logits = outputs.image_heat.masked_fill(~is_present, SILENT)
    return {
        "image_heatmap": heat_loss(logits, heat) / divisor((heat == 1).sum()),
        "image_depth": depth_loss(outputs.tensors.depth_logits, depth_m, divisor),
    }


def depth_loss(depth_logits: Tensor, depth_m: Tensor, divisor: Divisor = at_least_one) -> Tensor:
    """Divergence from the true depth (B, N, T), split between its two nearest bins, to the distribution of the depth
    head, logits (B, N, T, bins); mean over the tokens whose depth is finite."""
    is_known = depth_m.isfinite()
    bin_index, share = depth_place(torch.where(is_known, depth_m, 1.0))
    chance = depth_logits.log_softmax(dim=-1)
    first, second = (chance.gather(-1, (bin_index + step)[..., None])[..., 0] for step in (0, 1))
    surprise = torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)  # least that two bins can cost
    return mean_of(surprise - (1 - share) * first - share * second, is_known, divisor)
