"""Radar encoder: pillars on the grid of the fusion, then a small network. All radars are encoded together."""

from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.models.blocks import ConvNorm, ResidualBlock, to_tokens
from perception.models.encoders.pillars import Pillars


class RadarEncoder(nn.Module):
    """Returns (B, P, 7) in the order of `RADAR_FIELDS` and their count (B,) to tokens (B, G * G, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, range_m = config.radar.channels, config.range_m
        scale = (1 / range_m, 1 / range_m, 1 / 3, 1 / 20, 1 / 10, 1 / 10, 10.0)
        self.pillars = Pillars(config.bev_cells, range_m, scale, channels)
        self.spread = ResidualBlock(channels, channels)
        self.widen = ConvNorm(channels, config.width, kernel=1, activate=False)

    def forward(self, points: Tensor, count: Tensor) -> Tensor:
        x = self.pillars(points, count)  # (B, Cr, G, G)
        x = self.spread(x)  # (B, Cr, G, G)
        return to_tokens(self.widen(x))  # (B, G * G, C)
