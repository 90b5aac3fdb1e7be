"""Losses of the path head: the mode nearest to what the driver did learns it, and is to be the most confident."""

from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from perception.models.heads.curves import distance_from_curves
from perception.training.losses_terms import Divisor, at_least_one, mean_of

LEAST_SOFTNESS_M: Final = 1e-3
CURVE_SOFTNESS_M: Final = 0.3
"""Curves share what is asked for by exp(-distance from the driver's way / this)."""


class Ways(Protocol):
    """What a path head says, as in `FusionTensors`."""

    @property
    def mode_logits(self) -> Tensor: ...

    @property
    def waypoints_m(self) -> Tensor: ...

    @property
    def target_speed_mps(self) -> Tensor: ...

    @property
    def curve_logits(self) -> Tensor: ...


class Driven(Protocol):
    """What the driver did, as in `TrainingBatch`."""

    @property
    def path_m(self) -> Tensor: ...

    @property
    def path_known(self) -> Tensor: ...

    @property
    def target_speed_mps(self) -> Tensor: ...

    @property
    def ego(self) -> Tensor: ...


def path_losses(
    tensors: Ways, batch: Driven, softness_m: float = 0.0, divisor: Divisor = at_least_one
) -> dict[str, Tensor]:
    """`path` (metres), `mode`, `speed` (m/s), `curve`, unweighted; means over frames where the driver's way is known.

    Only the nearest mode is drawn to the driver's path, the others stay free for other ways (Lee et al., winner takes
    all, NeurIPS 2016). softness_m: see `LossConfig.mode_softness_m`.
    """
    is_known = batch.path_known  # (B, S)
    wanted = torch.where(is_known[..., None], batch.path_m, 0.0)  # (B, S, 2)
    gap = (tensors.waypoints_m - wanted[:, None]).abs().sum(dim=-1)  # (B, modes, S)
    gap = torch.where(is_known[:, None], gap, 0.0).sum(dim=-1) / is_known.sum(dim=-1, keepdim=True).clamp(min=1)
    nearest = gap.min(dim=1).values  # (B,)
    is_any = is_known.any(dim=1)  # (B,)
    share = (-gap.detach() / max(softness_m, LEAST_SOFTNESS_M)).softmax(dim=1)  # (B, modes)
    confidence = _divergence(tensors.mode_logits, share)  # (B,)
    gap, tells = distance_from_curves(batch.path_m, is_known, batch.ego[:, 0])  # (B, K), (B,)
    like = (-gap / CURVE_SOFTNESS_M).softmax(dim=1)  # (B, K)
    curve = _divergence(tensors.curve_logits, like)  # (B,)
    is_speed_known = batch.target_speed_mps.isfinite()  # (B,)
    speed = torch.where(is_speed_known, batch.target_speed_mps, 0.0)
    return {
        "path": mean_of(nearest, is_any, divisor),
        "mode": mean_of(confidence, is_any, divisor),
        "curve": mean_of(curve, tells, divisor),
        "speed": mean_of((tensors.target_speed_mps - speed).abs(), is_speed_known, divisor),
    }


def _divergence(logits: Tensor, share: Tensor) -> Tensor:
    """Of what logits (B, N) say from the shares (B, N) asked for, (B,); 0 where these are met."""
    cost = functional.cross_entropy(logits, share, reduction="none")
    divergence: Tensor = cost - torch.special.entr(share).sum(dim=1)
    return divergence
