"""Path head: a few ways on from here, given what is around, how the ego moves and where it is told to go."""

import torch
from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.models.blocks import Attention, FeedForward, exact, start_small
from perception.models.decoder import Memory
from perception.models.tensors import EGO_FIELDS

_UNITS = {"speed_mps": 10.0, "yaw_rate_radps": 0.3, "speed_limit_mps": 15.0, "route_distance_m": 30.0}


class PathHead(nn.Module):
    """Mode queries that attend to the objects and the pooled bird's-eye view.

    Waypoints are corrections of the arc that the ego is on (constant speed and yaw rate), the target speed one of
    its present speed: an untrained head drives on as before.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.modes, self.steps = config.path_modes, config.path_steps
        self.bev_tokens = 1 + config.memory_cells**2  # the null token and the pooled bird's-eye view
        self.mode_queries = nn.Parameter(torch.randn(self.modes, width) * 0.5)
        self.condition = FeedForward(len(EGO_FIELDS), width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.object_attention = Attention(width, config.heads)
        self.bev_attention = Attention(width, config.heads)
        self.feed_forward = FeedForward(width, config.feedforward, width)
        self.waypoints = nn.Linear(width, self.steps * 2)
        self.confidence = nn.Linear(width, 1)
        self.speed = FeedForward(width, width, 1)
        self.register_buffer("units", torch.tensor([_UNITS.get(name, 1.0) for name in EGO_FIELDS]), persistent=False)
        self.register_buffer("times_s", torch.arange(1, self.steps + 1) * config.path_step_s, persistent=False)
        self.units: Tensor
        self.times_s: Tensor

    def reset(self) -> None:
        """Start close to the arc, each mode a little off it, so that each finds its own part to learn."""
        for layer in (self.waypoints, self.confidence, self.speed[-1]):
            start_small(layer, std=0.02)

    def forward(self, objects: Tensor, memory: Memory, ego: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """objects (B, Q, C), ego (B, E): logits (B, modes), waypoints (B, modes, steps, 2), target speed (B,)."""
        condition = self.condition(ego / self.units)  # (B, C)
        x = self.mode_queries + condition[:, None]  # (B, modes, C)
        x = x + self.object_attention(self.norms[0](x), objects, objects)  # (B, modes, C)
        bev = slice(0, self.bev_tokens)
        around = memory.keys[:, bev], memory.values[:, bev], memory.bias[:, None, bev]  # (B, 1 + S * S, C) twice, bias
        x = x + self.bev_attention(self.norms[1](x), *around)  # (B, modes, C)
        x = x + self.feed_forward(self.norms[2](x))  # (B, modes, C)
        x = self.norms[3](x)  # (B, modes, C)

        with exact(x):
            x = x.float()
            offsets = self.waypoints(x).view(len(x), self.modes, self.steps, 2)  # (B, modes, steps, 2)
            arc = constant_arc(ego[:, 0], ego[:, 1], self.times_s)  # (B, steps, 2)
            speed = ego[:, 0] + self.speed(x.mean(dim=1))[:, 0]  # (B,)
            return self.confidence(x)[..., 0], arc[:, None] + offsets, speed


def constant_arc(speed_mps: Tensor, yaw_rate_radps: Tensor, times_s: Tensor) -> Tensor:
    """Positions (B, steps, 2) at `times_s` (steps,) of an ego that keeps its speed (B,) and yaw rate (B,)."""
    angle = yaw_rate_radps[:, None] * times_s  # (B, steps)
    length = speed_mps[:, None] * times_s  # (B, steps)
    # sin(a) / a and (1 - cos(a)) / a by torch's sinc, which has no hole at 0.
    sine = torch.sinc(angle / torch.pi)
    versine = torch.sinc(angle / (2 * torch.pi)) * torch.sin(angle / 2)
    return torch.stack([length * sine, length * versine], dim=-1)
