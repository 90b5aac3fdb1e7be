"""The decoder: object queries attend to each other, then to the bird's-eye view and the image tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.models.blocks import ABSENT, Attention, FeedForward, GridEncoding, PositionEncoding, to_tokens
from perception.models.queries import Queries
from perception.models.tensors import ORIGIN_SCALE_M, FusionInputs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Memory:
    """What queries attend to. values: (B, M, C). keys: (B, M, C), values and positions. bias: (B, M), 0 or `ABSENT`.

    Order: one null token that is always there, the pooled bird's-eye view (S * S), then the tokens of each camera.
    """

    values: Tensor
    keys: Tensor
    bias: Tensor


class MemoryBuilder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pool = config.bev_cells // config.memory_cells
        self.null = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.bev_position = GridEncoding(config.memory_cells, config.width)
        self.ray_position = FeedForward(6, config.width, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, inputs: FusionInputs, bev: Tensor, tokens: Tensor) -> Memory:
        """bev (B, C, G, G), tokens (B, N, T, C)."""
        batch = bev.shape[0]
        pooled = to_tokens(functional.avg_pool2d(bev, self.pool))  # (B, S * S, C)
        origin = (inputs.camera_origin_m / ORIGIN_SCALE_M)[:, :, None].expand_as(inputs.camera_rays)  # (B, N, T, 3)
        is_seen = inputs.camera_present[:, :, None].expand(tokens.shape[:3])  # (B, N, T)
        rays = torch.cat([inputs.camera_rays, origin], dim=-1).masked_fill(~is_seen[..., None], 0.0)  # (B, N, T, 6)

        is_any = inputs.camera_present.any(1) | inputs.lidar_present.any(1) | inputs.radar_present  # (B,)
        bev_position = self.bev_position().expand(batch, -1, -1)  # (B, S * S, C)
        image_position = self.ray_position(rays).flatten(1, 2)  # (B, N * T, C)
        is_there = torch.cat(
            [
                torch.ones_like(is_any)[:, None],
                is_any[:, None].expand(-1, pooled.shape[1]),
                is_seen.flatten(1),
            ],
            dim=1,
        )  # (B, M)
        null = self.null.expand(batch, -1, -1)  # (B, 1, C)
        values = self.norm(torch.cat([null, pooled, tokens.flatten(1, 2)], dim=1))  # (B, M, C)
        position = torch.cat([torch.zeros_like(null), bev_position, image_position], dim=1)  # (B, M, C)
        return Memory(values=values, keys=values + position, bias=torch.where(is_there, 0.0, ABSENT))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each behind a norm and beside a shortcut."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config.width, config.heads)
        self.cross_attention = Attention(config.width, config.heads)
        self.feed_forward = FeedForward(config.width, config.feedforward, config.width)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))

    def forward(self, x: Tensor, position: Tensor, memory: Memory, bias: Tensor | None) -> Tensor:
        """x, position (B, Q, C), bias (B, Q, Q) of the queries among themselves: (B, Q, C)."""
        y = self.norms[0](x)
        x = x + self.self_attention(y + position, y + position, y, bias)
        y = self.norms[1](x)
        x = x + self.cross_attention(y + position, memory.keys, memory.values, memory.bias[:, None])
        refined: Tensor = x + self.feed_forward(self.norms[2](x))
        return refined


class Decoder(nn.Module):
    """Queries and memory to the state of the queries after every layer, (D, B, Q, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.position = PositionEncoding(config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, queries: Queries, memory: Memory) -> Tensor:
        x = queries.content  # (B, Q, C)
        position = self.position(queries.xy)  # (B, Q, C)
        states = []
        for layer in self.layers:
            x = layer(x, position, memory, queries.bias)  # (B, Q, C)
            states.append(x)
        normed: Tensor = self.norm(torch.stack(states))  # (D, B, Q, C)
        return normed
