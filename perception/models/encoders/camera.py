"""Camera encoder: a residual network of stride 16 with a light feature pyramid. It knows nothing of geometry."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.models.blocks import ConvNorm, ResidualBlock, to_tokens

STRIDE = 16
PIXEL_MEAN = 128.0
PIXEL_SCALE = 64.0


class CameraEncoder(nn.Module):
    """Images (B, 3, H, W) uint8 RGB to tokens (B, T, C), row by row; T = H/16 * W/16."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c2, c4, c8, c16 = config.image.channels
        self.stem = ConvNorm(3, c2, stride=2)
        self.stage2 = ResidualBlock(c2, c2)
        self.stage4 = ResidualBlock(c2, c4, stride=2)
        self.stage8 = ResidualBlock(c4, c8, stride=2)
        self.stage16 = ResidualBlock(c8, c16, stride=2)
        self.stage32 = ConvNorm(c16, c16, stride=2)
        self.lateral8 = ConvNorm(c8, config.width, kernel=1, activate=False)
        self.lateral16 = ConvNorm(c16, config.width, kernel=1, activate=False)
        self.lateral32 = ConvNorm(c16, config.width, kernel=1, activate=False)

    def forward(self, images: Tensor) -> Tensor:
        x = (images.to(self.stem.conv.weight.dtype) - PIXEL_MEAN) / PIXEL_SCALE  # (B, 3, H, W)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.stage2(self.stem(x))  # (B, 16, H/2, W/2)
        x = self.stage4(x)  # (B, 32, H/4, W/4)
        x8 = self.stage8(x)  # (B, 64, H/8, W/8)
        x16 = self.stage16(x8)  # (B, 96, H/16, W/16)
        x32 = self.stage32(x16)  # (B, 96, H/32, W/32)
        fine = self.lateral8(functional.avg_pool2d(x8, 2))  # (B, C, H/16, W/16): small objects
        coarse = self.lateral32(x32)  # (B, C, H/32, W/32): context
        coarse = functional.interpolate(coarse, size=x16.shape[-2:], mode="nearest")  # (B, C, H/16, W/16)
        return to_tokens(self.lateral16(x16) + fine + coarse)  # (B, T, C)
