"""Camera features onto the bird's-eye view: each cell samples the images at a few heights, in two cameras at most.

A sample counts for as much as its token looks that far away.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.models.encoders.camera import STRIDE
from perception.models.heads.depth import DEPTH_BINS, depth_place
from perception.models.tensors import FusionInputs

DEPTH_FLOOR = 0.2
"""Weight that a sample keeps at any depth: a wrong depth dims an object but does not hide it."""


class CameraLift(nn.Module):
    """Image tokens to a bird's-eye view (B, G * G, C), 0 where no camera sees it, and where one does (B, G * G)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heights = len(config.lift_heights_m)
        self.rows, self.columns = config.image.height_px // STRIDE, config.image.width_px // STRIDE
        self.merge = nn.Linear(self.heights * config.width, config.width, bias=False)

    def forward(self, inputs: FusionInputs, tokens: Tensor, depth_logits: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (B, N, T, C) image features, 0 for absent cameras. depth_logits: (B, N, T, bins)."""
        batch, points = inputs.lift_valid.shape[:2]
        if tokens.shape[1] == 0:
            cells = points // self.heights
            nothing = tokens.new_zeros(batch, cells, self.merge.out_features)
            return nothing, torch.zeros(batch, cells, dtype=torch.bool, device=tokens.device)
        index, weight, is_seen = self.taps(inputs)
        weight = weight * depth_weight(depth_logits, index, inputs.lift_depth_m)  # (B, P, 4K)
        sampled = sample_tokens(tokens, index, weight)  # (B, P, C)
        merged: Tensor = self.merge(sampled.view(batch, points // self.heights, -1))  # (B, G * G, C)
        return merged, is_seen.view(batch, -1, self.heights).any(dim=-1)

    def taps(self, inputs: FusionInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Bilinear taps: tokens (B, P, 4K) within the bundle, weights (B, P, 4K) that sum to 1, is_seen (B, P)."""
        camera = inputs.lift_camera  # (B, P, K)
        present = inputs.camera_present.gather(1, camera.flatten(1)).view_as(camera)  # (B, P, K)
        is_valid = inputs.lift_valid & present  # (B, P, K)
        share = is_valid / is_valid.sum(dim=-1, keepdim=True).clamp(min=1)  # (B, P, K)

        u = inputs.lift_uv[..., 0].clamp(0, self.columns - 1)  # (B, P, K)
        v = inputs.lift_uv[..., 1].clamp(0, self.rows - 1)
        left, top = u.floor(), v.floor()
        fu, fv = u - left, v - top
        right, bottom = (left + 1).clamp(max=self.columns - 1), (top + 1).clamp(max=self.rows - 1)
        first = camera * (self.rows * self.columns)  # (B, P, K)
        corners = ((top, left), (top, right), (bottom, left), (bottom, right))
        index = torch.cat([first + (row * self.columns + column).long() for row, column in corners], dim=-1)
        shares = ((1 - fv) * (1 - fu), (1 - fv) * fu, fv * (1 - fu), fv * fu)
        weight = torch.cat([share * part for part in shares], dim=-1)  # (B, P, 4K)
        return index, weight, is_valid.any(dim=-1)


def depth_weight(depth_logits: Tensor, index: Tensor, depth_m: Tensor) -> Tensor:
    """How much likelier than by chance each tap's token looks as far as the sample is, (B, P, 4K); 1 if untrained.

    depth_logits (B, N, T, bins). index (B, P, 4K) of tokens within the bundle. depth_m (B, P, K).
    """
    chance = depth_logits.float().softmax(dim=-1) * DEPTH_BINS  # (B, N, T, bins)
    table = (DEPTH_FLOOR + (1 - DEPTH_FLOOR) * chance).flatten(1)  # (B, N * T * bins)
    nearer, share = (part[:, :, None] for part in depth_place(depth_m))  # (B, P, 1, K) each
    taps = index.view(*index.shape[:2], 4, -1)  # (B, P, 4, K)
    place = torch.add(nearer, taps, alpha=DEPTH_BINS).flatten(1)  # (B, P * 4K)
    first, second = (table.gather(1, at).view_as(taps) for at in (place, place + 1))
    return torch.lerp(first, second, share).flatten(2)


def sample_tokens(tokens: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums (B, P, C) of tokens (B, N, T, C) at index (B, P, S) with weight (B, P, S)."""
    if torch.compiler.is_exporting():
        return _sample_by_gather(tokens.flatten(1, 2), index, weight)
    batch, per_bundle = tokens.shape[0], tokens.shape[1] * tokens.shape[2]
    table = tokens.reshape(batch * per_bundle, -1)  # (B * N * T, C)
    offset = torch.arange(batch, device=tokens.device).view(-1, 1, 1) * per_bundle
    bags = (index + offset).flatten(0, 1)  # (B * P, S)
    summed = functional.embedding_bag(bags, table, mode="sum", per_sample_weights=weight.flatten(0, 1).to(table.dtype))
    return summed.view(batch, -1, table.shape[1])


def _sample_by_gather(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """As `sample_tokens`, of table (B, M, C), in operations that ONNX knows; tap by tap, so that little is held."""
    summed = table.new_zeros(*index.shape[:2], table.shape[2])
    for tap in range(index.shape[2]):
        rows = table.gather(1, index[:, :, tap, None].expand(-1, -1, table.shape[2]))  # (B, P, C)
        summed = summed + rows * weight[:, :, tap, None].to(table.dtype)
    return summed
