"""Building blocks that the encoders, the fusion and the decoder share. Shapes: B batch, C channels, Q, M tokens."""

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

POSITION_OCTAVES = 5

ABSENT = -1e4
"""Added to the attention scores of what is absent: large enough for a weight of exactly 0, finite in any precision."""


class Foldable(nn.Module):
    """A module whose norms can be merged into its convolutions; for inference only."""

    def fold(self) -> None:
        """Afterwards the running statistics are part of the weights. Does nothing the second time."""
        raise NotImplementedError


class ConvNorm(Foldable):
    """Convolution, batch norm and, unless told otherwise, ReLU; `fold` merges the norm into the convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, activate: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return functional.relu(y, inplace=True) if self.activate else y

    def fold(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first one strides.

    The shortcut takes every `stride`-th pixel itself, which is what a strided 1x1 convolution does: the gradient of
    that one writes past its buffers in oneDNN (torch 2.13) where inputs are fewer than a vector register holds.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = ConvNorm(outputs, outputs, activate=False)
        is_same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if is_same else ConvNorm(inputs, outputs, kernel=1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))  # (B, C, H / stride, W / stride)
        y = y + self.shortcut(x[..., :: self.stride, :: self.stride])
        return functional.relu(y, inplace=True)


class Attention(nn.Module):
    """Multi-head attention whose keys and values may differ (positions belong to keys only)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """queries (B, Q, C), keys and values (B, M, C), bias (B, 1 or Q, M) added to the queries' scores: (B, Q, C)."""
        q = self._split(self.query(queries))  # (B, heads, Q, C / heads)
        k = self._split(self.key(keys))  # (B, heads, M, C / heads)
        v = self._split(self.value(values))  # (B, heads, M, C / heads)
        mask = None if bias is None else bias[:, None].to(q.dtype)  # (B, 1, 1 or Q, M)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, heads, Q, C / heads)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # (B, Q, C)
        return out

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        return x.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)


class FeedForward(nn.Sequential):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


class PositionEncoding(nn.Module):
    """Positions (..., 2) in -1..1 to C channels: waves, then a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4 * POSITION_OCTAVES, width)

    def forward(self, xy: Tensor) -> Tensor:
        encoded: Tensor = self.linear(waves(xy))
        return encoded


class GridEncoding(nn.Module):
    """`PositionEncoding` of the cells of a bird's-eye view, (cells * cells, C); its waves are computed once."""

    def __init__(self, cells: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4 * POSITION_OCTAVES, width)
        self.register_buffer("waves", waves(cell_centers(cells)), persistent=False)
        self.waves: Tensor

    def forward(self) -> Tensor:
        encoded: Tensor = self.linear(self.waves)
        return encoded


def waves(xy: Tensor) -> Tensor:
    """Sines and cosines (..., 4 * octaves) of positions (..., 2), the longest as long as the view is wide."""
    octaves = math.pi / 2 * 2.0 ** torch.arange(POSITION_OCTAVES, device=xy.device)
    angles = (xy[..., None] * octaves).flatten(-2)  # (..., 2 * octaves)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def exact(x: Tensor) -> AbstractContextManager[object]:
    """Within it nothing is computed in half precision, whatever is outside; give it float32."""
    return torch.autocast(x.device.type, enabled=False)


def to_tokens(features: Tensor) -> Tensor:
    """Maps (B, C, H, W) to tokens (B, H * W, C), row by row; no copy where channels come last in memory."""
    return features.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Tokens (B, rows * columns, C) to maps (B, C, rows, columns) with channels last in memory."""
    return tokens.reshape(len(tokens), rows, columns, -1).permute(0, 3, 1, 2)


def cell_centers(cells: int) -> Tensor:
    """Centres (cells * cells, 2) of a bird's-eye view in -1..1: rows go along x (forward), columns along y (left)."""
    line = (torch.arange(cells, dtype=torch.float32) + 0.5) * (2 / cells) - 1
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)


def speed_up(network: nn.Module) -> None:
    """Fold norms into convolutions and store these channels last; for inference, in eval mode, without gradients."""
    for module in network.modules():
        if isinstance(module, Foldable):
            module.fold()
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def initialise(network: nn.Module) -> None:
    """He initialisation of all convolutions; other layers keep PyTorch's own."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def start_small(layer: nn.Module, std: float, bias: float = 0.0) -> None:
    """Normal weights of deviation `std` and a constant bias, for the last layer of a head."""
    for name, parameter in layer.named_parameters(recurse=False):
        if name == "weight":
            nn.init.normal_(parameter, std=std)
        else:
            nn.init.constant_(parameter, bias)
