"""Lidar encoder: pillars on a fixed canvas, then a residual network down to the bird's-eye view of the fusion."""

from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.core.errors import ModelError
from perception.models.blocks import ConvNorm, ResidualBlock, to_tokens
from perception.models.encoders.pillars import Pillars


class LidarEncoder(nn.Module):
    """Points (B, P, 5) in the order of `LIDAR_FIELDS` and their count (B,) to tokens (B, G * G, C).

    Stage i has stride 2^i on the canvas; the stages at the resolution of the bird's-eye view and coarser are summed.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, range_m = config.lidar.channels, config.range_m
        strides = [2**i for i in range(len(channels))]
        ratio = config.lidar.canvas // config.bev_cells
        if ratio not in strides:
            raise ModelError(f"lidar.canvas / bev_cells is {ratio}; with these lidar.channels it may be {strides}")
        self.bev_cells = config.bev_cells
        self.pillars = Pillars(config.lidar.canvas, range_m, (1 / range_m, 1 / range_m, 1 / 3, 1.0, 10.0), channels[0])
        self.stages = nn.ModuleList(
            ResidualBlock(before, after, stride=1 if i == 0 else 2)
            for i, (before, after) in enumerate(zip((channels[0], *channels), channels, strict=False))
        )
        self.first_lateral = strides.index(ratio)
        self.laterals = nn.ModuleList(
            ConvNorm(width, config.width, kernel=1, activate=False) for width in channels[self.first_lateral :]
        )

    def forward(self, points: Tensor, count: Tensor) -> Tensor:
        x = self.pillars(points, count)  # (B, C0, canvas, canvas)
        maps = []
        for stage in self.stages:
            x = stage(x)  # (B, Ci, canvas / 2^i, canvas / 2^i)
            maps.append(x)
        merged = []
        for lateral, x in zip(self.laterals, maps[self.first_lateral :], strict=True):
            y = lateral(x)  # (B, C, G / 2^j, G / 2^j)
            merged.append(
                functional.interpolate(y, size=(self.bev_cells, self.bev_cells), mode="nearest")
            )  # (B, C, G, G)
        return to_tokens(sum(merged[1:], merged[0]))  # (B, G * G, C)
