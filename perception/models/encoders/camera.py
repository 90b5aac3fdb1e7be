"""Camera encoder: a residual network with a light feature pyramid of stride 16. It knows nothing of geometry."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.models.blocks import ConvNorm, ResidualBlock, to_tokens
from perception.models.encoders.resnet import ResNet50

STRIDE = 16
PIXEL_MEAN = 128.0
PIXEL_SCALE = 64.0
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_SCALE = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def camera_encoder(config: ModelConfig) -> nn.Module:
    """The encoder that `config.image.backbone` names: images (B, 3, H, W) uint8 RGB to tokens (B, T, C)."""
    return PyramidEncoder(config) if config.image.backbone == "resnet50" else CameraEncoder(config)


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


class PyramidEncoder(nn.Module):
    """ResNet-50 and a feature pyramid over its strides 8, 16 and 32; arguments and result as `CameraEncoder`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = ResNet50()
        c8, c16, c32 = self.backbone.channels
        self.lateral8 = ConvNorm(c8, config.width, kernel=1, activate=False)
        self.lateral16 = ConvNorm(c16, config.width, kernel=1, activate=False)
        self.lateral32 = ConvNorm(c32, config.width, kernel=1, activate=False)
        self.smooth = ConvNorm(config.width, config.width)
        # A buffer, so that it moves with the network: ImageNet's mean and deviation, which the weights were made for.
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_scale", torch.tensor(IMAGENET_SCALE).view(3, 1, 1), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_scale: Tensor

    def forward(self, images: Tensor) -> Tensor:
        x = (images.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_scale  # (B, 3, H, W)
        x8, x16, x32 = self.backbone(x.contiguous(memory_format=torch.channels_last))
        fine = self.lateral8(functional.avg_pool2d(x8, 2))  # (B, C, H/16, W/16): small objects
        coarse = self.lateral32(x32)  # (B, C, H/32, W/32): context
        coarse = functional.interpolate(coarse, size=x16.shape[-2:], mode="nearest")  # (B, C, H/16, W/16)
        return to_tokens(self.smooth(self.lateral16(x16) + fine + coarse))  # (B, T, C)
