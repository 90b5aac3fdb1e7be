"""Path head: a few ways on from here, given what is around, how the ego moves and where it is told to go."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.core.taxonomy import CLASSES
from perception.models.blocks import Attention, FeedForward, PositionEncoding, exact, start_small, to_tokens
from perception.models.boxes import BOX_FIELDS, CENTER
from perception.models.tensors import EGO_FIELDS

_UNITS = {"speed_mps": 10.0, "yaw_rate_radps": 0.3, "speed_limit_mps": 15.0, "route_distance_m": 30.0}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surroundings:
    """What a path head is given.

    objects: (B, Q, C) last states of the queries; class_logits: (B, Q, classes) and boxes: (B, Q, 10) as `BOX_FIELDS`,
    what they are and where. tokens: (B, 1 + S * S, C) the null token and the pooled bird's-eye view, positions
    included; bias: (B, 1 + S * S), 0 or `ABSENT`. drivable_logits: (B, G, G). ego: (B, E) as `EGO_FIELDS`.
    """

    objects: Tensor
    class_logits: Tensor
    boxes: Tensor
    tokens: Tensor
    bias: Tensor
    drivable_logits: Tensor
    ego: Tensor


class PathLayer(nn.Module):
    """Looks at the objects, at the bird's-eye view, and thinks; each behind a norm and beside a shortcut."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.object_attention = Attention(config.width, config.heads)
        self.bev_attention = Attention(config.width, config.heads)
        self.feed_forward = FeedForward(config.width, config.feedforward, config.width)

    def forward(self, x: Tensor, objects: Tensor, bev: Tensor, bias: Tensor) -> Tensor:
        """x (B, modes, C), objects (B, Q, C), bev (B, M, C), bias (B, 1, M): (B, modes, C)."""
        x = x + self.object_attention(self.norms[0](x), objects, objects)
        x = x + self.bev_attention(self.norms[1](x), bev, bev, bias)
        thought: Tensor = x + self.feed_forward(self.norms[2](x))
        return thought


class PathHead(nn.Module):
    """Mode queries that attend to the objects and to the bird's-eye view, twice or more.

    What they attend to carries its position along, as a way is made of positions, and what is drivable, which the dense
    head learned from every cell of every frame. Waypoints are corrections of the arc that the ego is on (constant speed
    and yaw rate), the target speed one of its present speed: an untrained head drives on as before.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.modes, self.steps, self.range_m = config.path_modes, config.path_steps, config.range_m
        self.pool = config.bev_cells // config.memory_cells
        self.mode_queries = nn.Parameter(torch.randn(self.modes, width) * 0.5)
        self.condition = FeedForward(len(EGO_FIELDS), width, width)
        self.object_position = PositionEncoding(width)
        self.object_kind = FeedForward(len(BOX_FIELDS) + len(CLASSES), width, width)
        self.drivable = nn.Linear(self.pool**2, width)
        self.layers = nn.ModuleList(PathLayer(config) for _ in range(config.path_layers))
        self.norm = nn.LayerNorm(width)
        self.waypoints = nn.Linear(width, self.steps * 2)
        self.confidence = nn.Linear(width, 1)
        self.speed = FeedForward(width, width, 1)
        units = torch.tensor([_UNITS.get(name, 1.0) for name in EGO_FIELDS])
        self.register_buffer("units", units, persistent=False)
        self.register_buffer("box_units", torch.tensor([20.0, 20, 20, 1, 1, 1, 1, 1, 10, 10]), persistent=False)
        self.register_buffer("times_s", torch.arange(1, self.steps + 1) * config.path_step_s, persistent=False)
        self.units: Tensor
        self.box_units: Tensor
        self.times_s: Tensor

    def reset(self) -> None:
        """Start close to the arc, each mode a little off it, so that each finds its own part to learn."""
        for layer in (self.waypoints, self.confidence, self.speed[-1]):
            start_small(layer, std=0.02)

    def forward(self, around: Surroundings) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, modes), waypoints (B, modes, steps, 2), target speed (B,)."""
        ego = around.ego
        place = self.object_position(around.boxes[..., CENTER][..., :2] / self.range_m)  # (B, Q, C)
        kind = torch.cat([around.boxes / self.box_units, around.class_logits.sigmoid()], dim=-1)  # (B, Q, 10 + classes)
        objects = around.objects + place + self.object_kind(kind)  # (B, Q, C)
        bev = around.tokens + self._drivable_tokens(around.drivable_logits)  # (B, 1 + S * S, C)
        x = self.mode_queries + self.condition(ego / self.units)[:, None]  # (B, modes, C)
        for layer in self.layers:
            x = layer(x, objects, bev, around.bias[:, None])  # (B, modes, C)
        x = self.norm(x)  # (B, modes, C)

        with exact(x):
            x = x.float()
            offsets = self.waypoints(x).view(len(x), self.modes, self.steps, 2)  # (B, modes, steps, 2)
            arc = constant_arc(ego[:, 0], ego[:, 1], self.times_s)  # (B, steps, 2)
            speed = ego[:, 0] + self.speed(x.mean(dim=1))[:, 0]  # (B,)
            return self.confidence(x)[..., 0], arc[:, None] + offsets, speed

    def _drivable_tokens(self, logits: Tensor) -> Tensor:
        """(B, G, G) to (B, 1 + S * S, C), for the null token and each pooled cell."""
        cells = functional.pixel_unshuffle(logits.sigmoid()[:, None], self.pool)  # (B, pool * pool, S, S)
        return functional.pad(self.drivable(to_tokens(cells)), (0, 0, 1, 0))


def constant_arc(speed_mps: Tensor, yaw_rate_radps: Tensor, times_s: Tensor) -> Tensor:
    """Positions (B, steps, 2) at `times_s` (steps,) of an ego that keeps its speed (B,) and yaw rate (B,)."""
    angle = yaw_rate_radps[:, None] * times_s  # (B, steps)
    length = speed_mps[:, None] * times_s  # (B, steps)
    # sin(a) / a and (1 - cos(a)) / a by torch's sinc, which has no hole at 0.
    sine = torch.sinc(angle / torch.pi)
    versine = torch.sinc(angle / (2 * torch.pi)) * torch.sin(angle / 2)
    return torch.stack([length * sine, length * versine], dim=-1)
