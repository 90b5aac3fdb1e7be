"""Everything on one bird's-eye view: lifted cameras, merged lidars, radar, weighted by what is there."""

import torch
from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.models.blocks import ConvNorm, FeedForward, GridEncoding, to_map
from perception.models.lift import CameraLift
from perception.models.tensors import FusionInputs

AGE_SCALE_S = 0.1
MAX_AGE_S = 1.0
TINY = 1e-6


class AgeEmbedding(nn.Module):
    """Signed ages in seconds (...) to channels (..., C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = FeedForward(2, 16, width)

    def forward(self, age_s: Tensor) -> Tensor:
        age = age_s.clamp(-MAX_AGE_S, MAX_AGE_S) / AGE_SCALE_S
        embedded: Tensor = self.network(torch.stack([age, age.abs()], dim=-1))
        return embedded


class BevFusion(nn.Module):
    """Features of all sensors to one bird's-eye view (B, C, G, G).

    Each modality weighs each channel; the weights are a softmax over the modalities present in a cell (a camera is
    present where it sees). With nothing present at all the view is that of zeros: finite, and always the same.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cells = config.bev_cells
        self.lift = CameraLift(config)
        self.lidar_age = AgeEmbedding(config.width)
        self.radar_age = AgeEmbedding(config.width)
        self.channel_logits = nn.Parameter(torch.zeros(3, config.width))  # camera, lidar, radar
        self.position = GridEncoding(config.bev_cells, config.width)
        self.mix = ConvNorm(config.width, config.width)

    def forward(self, inputs: FusionInputs, tokens: Tensor, depth_logits: Tensor) -> Tensor:
        """tokens: (B, N, T, C) image features with their ages, 0 for absent cameras; depth_logits: (B, N, T, bins)."""
        camera, camera_seen = self.lift(inputs, tokens, depth_logits)  # (B, G * G, C), 0 where not seen; (B, G * G)
        lidar, lidar_present = self._merge_lidars(inputs)  # (B, G * G, C), (B,)
        radar = self._radar(inputs)  # (B, G * G, C)

        strength = (self.channel_logits - self.channel_logits.amax(dim=0)).exp()  # (3, C)
        of_lidar = lidar_present[:, None, None] * strength[1]  # (B, 1, C)
        of_radar = inputs.radar_present[:, None, None] * strength[2]  # (B, 1, C)
        summed = (camera * strength[0]).addcmul(lidar, of_lidar).addcmul(radar, of_radar)  # (B, G * G, C)
        others = (of_lidar + of_radar).clamp(min=TINY)  # (B, 1, C)
        total = others.addcmul(camera_seen[..., None].to(strength.dtype), strength[0])  # (B, G * G, C)
        x = summed / total + self.position()  # (B, G * G, C)
        mixed: Tensor = self.mix(to_map(x, self.cells, self.cells))  # (B, C, G, G)
        return mixed

    def _merge_lidars(self, inputs: FusionInputs) -> tuple[Tensor, Tensor]:
        """Elementwise maximum (B, G * G, C) over the present lidars, 0 without any; and whether there is one (B,)."""
        present = inputs.lidar_present  # (B, L)
        is_any = present.any(dim=1)  # (B,)
        if present.shape[1] == 0:
            return torch.zeros_like(inputs.radar_features), is_any
        aged: Tensor = inputs.lidar_features + self.lidar_age(inputs.lidar_age_s)[:, :, None]  # (B, L, G * G, C)
        merged = aged.masked_fill(~present[:, :, None, None], -torch.inf).amax(dim=1)  # (B, G * G, C)
        return merged.masked_fill(~is_any[:, None, None], 0.0), is_any

    def _radar(self, inputs: FusionInputs) -> Tensor:
        aged: Tensor = inputs.radar_features + self.radar_age(inputs.radar_age_s)[:, None]  # (B, G * G, C)
        return aged.masked_fill(~inputs.radar_present[:, None, None], 0.0)
