"""Everything on one bird's-eye view: lifted cameras, merged lidars, radar, weighted by what is there."""

import torch
from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.models.blocks import ConvNorm, FeedForward, PositionEncoding, cell_centers
from perception.models.lift import CameraLift
from perception.models.tensors import FusionInputs

AGE_SCALE_S = 0.1
MAX_AGE_S = 1.0


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
        self.position = PositionEncoding(config.width)
        self.register_buffer("centers", cell_centers(config.bev_cells), persistent=False)
        self.centers: Tensor
        self.mix = ConvNorm(config.width, config.width)

    def forward(self, inputs: FusionInputs, tokens: Tensor) -> Tensor:
        """tokens: (B, N, T, C) image features with their ages, 0 for absent cameras."""
        camera, camera_seen = self.lift(inputs, tokens)  # (B, G * G, C), (B, G * G)
        lidar, lidar_present = self._merge_lidars(inputs)  # (B, G * G, C), (B,)
        radar = self._radar(inputs)  # (B, G * G, C)

        strength = (self.channel_logits - self.channel_logits.amax(dim=0)).exp()  # (3, C)
        weights = (
            camera_seen[..., None] * strength[0],  # (B, G * G, C)
            lidar_present[:, None, None] * strength[1],  # (B, 1, C)
            inputs.radar_present[:, None, None] * strength[2],  # (B, 1, C)
        )
        total = (weights[0] + weights[1] + weights[2]).clamp(min=1e-6)  # (B, G * G, C)
        summed = camera * weights[0] + lidar * weights[1] + radar * weights[2]
        x = summed / total + self.position(self.centers)  # (B, G * G, C)
        x = x.view(len(x), self.cells, self.cells, -1).permute(0, 3, 1, 2)  # (B, C, G, G), channels last
        mixed: Tensor = self.mix(x)
        return mixed

    def _merge_lidars(self, inputs: FusionInputs) -> tuple[Tensor, Tensor]:
        """Elementwise maximum (B, G * G, C) over the present lidars, 0 without any; and whether there is one (B,)."""
        present = inputs.lidar_present  # (B, L)
        batch = present.shape[0]
        if present.shape[1] == 0:
            nothing = inputs.ego.new_zeros(batch, self.cells * self.cells, self.mix.conv.in_channels)
            return nothing, torch.zeros(batch, dtype=torch.bool, device=present.device)
        features = inputs.lidar_features.flatten(3).transpose(2, 3)  # (B, L, G * G, C)
        features = features + self.lidar_age(inputs.lidar_age_s)[:, :, None]
        is_absent = ~present[:, :, None, None]
        merged = features.masked_fill(is_absent, -torch.inf).amax(dim=1)  # (B, G * G, C)
        is_any = present.any(dim=1)  # (B,)
        return merged.masked_fill(~is_any[:, None, None], 0.0), is_any

    def _radar(self, inputs: FusionInputs) -> Tensor:
        features = inputs.radar_features.flatten(2).transpose(1, 2)  # (B, G * G, C)
        aged: Tensor = features + self.radar_age(inputs.radar_age_s)[:, None]
        return aged.masked_fill(~inputs.radar_present[:, None, None], 0.0)
