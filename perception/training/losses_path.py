"""Losses of the path head: the mode nearest to what the driver did learns it, and is to be the most confident."""

import torch
from torch import Tensor
from torch.nn import functional

from perception.models.tensors import FusionTensors
from perception.training.batch import TrainingBatch
from perception.training.losses_terms import Divisor, at_least_one, mean_of


def path_losses(tensors: FusionTensors, batch: TrainingBatch, divisor: Divisor = at_least_one) -> dict[str, Tensor]:
    """`path` (metres), `mode` and `speed` (m/s), unweighted; means over the frames where the driver's way is known.

    Only the nearest mode is drawn to the driver's path, the others stay free for other ways (Lee et al., winner takes
    all, NeurIPS 2016).
    """
    is_known = batch.path_known  # (B, S)
    wanted = torch.where(is_known[..., None], batch.path_m, 0.0)  # (B, S, 2)
    gap = (tensors.waypoints_m - wanted[:, None]).abs().sum(dim=-1)  # (B, modes, S)
    gap = torch.where(is_known[:, None], gap, 0.0).sum(dim=-1) / is_known.sum(dim=-1, keepdim=True).clamp(min=1)
    nearest, mode = gap.min(dim=1)  # (B,)
    is_any = is_known.any(dim=1)  # (B,)
    confidence = functional.cross_entropy(tensors.mode_logits, mode, reduction="none")  # (B,)
    is_speed_known = batch.target_speed_mps.isfinite()  # (B,)
    speed = torch.where(is_speed_known, batch.target_speed_mps, 0.0)
    return {
        "path": mean_of(nearest, is_any, divisor),
        "mode": mean_of(confidence, is_any, divisor),
        "speed": mean_of((tensors.target_speed_mps - speed).abs(), is_speed_known, divisor),
    }
