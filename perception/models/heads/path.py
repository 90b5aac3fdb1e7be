"""Path head: a few ways on from here, given the road, who is around, how the ego moves and where it is told to go."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import PATH_WAYS, ModelConfig
from perception.core.taxonomy import CLASSES
from perception.models.blocks import Attention, FeedForward, PositionEncoding, exact, start_small
from perception.models.boxes import BOX_FIELDS, CENTER
from perception.models.heads.curves import LENGTH_M, STEP_M, curves, points_at, scale_of
from perception.models.tensors import EGO_FIELDS

_UNITS = {
    "speed_mps": 10.0,
    "yaw_rate_radps": 0.3,
    "speed_limit_mps": 15.0,
    "route_distance_m": 30.0,
    "route_target_x_m": 30.0,
    "route_target_y_m": 30.0,
}
_TARGET = [EGO_FIELDS.index(f"route_target_{axis}_m") for axis in ("x", "y")]
_HAS_TARGET = EGO_FIELDS.index("route_target_is_known")

APART_M = 2.0
"""Curves whose mean distance is below are one way."""
PROBE_EVERY_M = 2.0
PROBES_ASIDE_M = (-6.0, -4.5, -3.0, -1.5, 0.0, 1.5, 3.0, 4.5, 6.0)
"""Where it is looked whether one can drive, along each curve and beside it."""
FAR_M = 10.0
"""A curve that passes the route's target at this distance is as wrong as one that passes it further away."""
TARGET_SIGMA_M = 1.5
"""How well a navigation knows where the target is. Given, not learned: the drivers of the training keep to the route,
so learning finds the target to say little, and the closed loop then leaves the route where the road alone misleads."""
HIDDEN = 96


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surroundings:
    """What a path head is given.

    drivable_logits: (B, G, G). objects: (B, Q, C) last states of the queries; class_logits: (B, Q, classes) and boxes:
    (B, Q, 10) as `BOX_FIELDS`, what they are and where. ego: (B, E) as `EGO_FIELDS`.
    """

    drivable_logits: Tensor
    objects: Tensor
    class_logits: Tensor
    boxes: Tensor
    ego: Tensor


class PathHead(nn.Module):
    """Scores fixed curves by the road along them, and says for the best two how fast the ego goes on there.

    The geometry is given and one small network scores all curves alike, so that a few thousand frames teach it. Curves
    start from how near they are to the arc that the ego is on, and speeds from the present one: an untrained head
    drives on as before. Where the route's target is known, how near a curve passes it counts by a law of its own, which
    holds in places that no driver of the training was in; the small network is not told.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.speeds, self.steps, self.step_s = config.path_modes // PATH_WAYS, config.path_steps, config.path_step_s
        self.range_m = config.range_m
        family = curves()  # (K, L, 3)
        apart = (family[:, None, :, :2] - family[None, :, :, :2]).norm(dim=-1).mean(dim=-1)  # (K, K)
        self.register_buffer("family", family, persistent=False)
        self.register_buffer("is_same", apart < APART_M, persistent=False)
        self.register_buffer("probes", _probes(family), persistent=False)
        self.register_buffer("shape", _shape(family), persistent=False)
        self.family: Tensor
        self.is_same: Tensor
        self.probes: Tensor
        self.shape: Tensor
        self.road = nn.Linear(self.probes.shape[1] + self.shape.shape[1], HIDDEN)
        self.asked = nn.Linear(len(EGO_FIELDS), HIDDEN)
        self.weighed = FeedForward(HIDDEN, 64, 1)
        self.inertia = nn.Parameter(torch.ones(()))

        self.condition = FeedForward(len(EGO_FIELDS) + HIDDEN, width, width)
        self.object_position = PositionEncoding(width)
        self.object_kind = FeedForward(len(BOX_FIELDS) + len(CLASSES), width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.object_attention = Attention(width, config.heads)
        self.feed_forward = FeedForward(width, config.feedforward, width)
        self.progress = nn.Linear(width, self.speeds * self.steps)
        self.confidence = nn.Linear(width, self.speeds)
        self.speed = FeedForward(width, width, 1)
        units = torch.tensor([_UNITS.get(name, 1.0) for name in EGO_FIELDS])
        self.register_buffer("units", units, persistent=False)
        self.register_buffer("box_units", torch.tensor([20.0, 20, 20, 1, 1, 1, 1, 1, 10, 10]), persistent=False)
        self.register_buffer("lengths_m", (torch.arange(family.shape[1]) + 1) * STEP_M, persistent=False)
        self.register_buffer("is_command", _columns("command_"), persistent=False)
        self.register_buffer("is_target", _columns("route_target_"), persistent=False)
        self.is_command: Tensor
        self.is_target: Tensor
        self.units: Tensor
        self.box_units: Tensor
        self.lengths_m: Tensor

    def reset(self) -> None:
        """Start close to driving on, each speed a little off it, so that each finds its own part to learn."""
        for layer in (self.weighed[-1], self.progress, self.confidence, self.speed[-1]):
            start_small(layer, std=0.02)
        with torch.no_grad():
            self.progress.bias.copy_(torch.linspace(-0.3, 0.3, self.speeds).repeat_interleave(self.steps))

    def forward(self, around: Surroundings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (B, modes), waypoints (B, modes, steps, 2), target speed (B,), logits of the curves (B, K)."""
        # Who knows the target needs no word: it adds habits only, such as turning right at once where the way to the
        # right leads round to the left.
        has_target = around.ego[:, _HAS_TARGET, None] > 0
        ego = around.ego.masked_fill(has_target & self.is_command, 0.0)
        scale = scale_of(ego[:, 0])  # (B,)
        seen = self._seen(around.drivable_logits, ego, scale)  # (B, K, HIDDEN)
        with exact(seen):
            likely = self.weighed(seen.float())[..., 0]  # (B, K)
            likely = likely - self.inertia * self._off_the_arc(ego, scale)
            likely = likely - (self._off_the_target(ego, scale) / TARGET_SIGMA_M).square() / 2
        best, share = self._ways(likely)  # (B, WAYS), (B, WAYS, K)
        looked = seen.gather(1, best[..., None].expand(-1, -1, seen.shape[-1]))  # (B, WAYS, HIDDEN)
        x = self._among(looked, around, ego)  # (B, WAYS, C)

        with exact(x):
            x = x.float()
            mass = share.sum(dim=-1).clamp(min=1e-9)  # (B, WAYS)
            lines = torch.einsum("bwk,kli->bwli", share / mass[..., None], self.family[..., :2])  # (B, WAYS, L, 2)
            ahead = self.progress(x).view(*x.shape[:2], self.speeds, self.steps)  # (B, WAYS, speeds, steps)
            each_m = functional.relu(ego[:, None, None, :1] * self.step_s + ahead)
            length = each_m.cumsum(dim=-1).flatten(2) / scale[:, None, None]  # (B, WAYS, speeds * steps)
            points = points_at(lines, length) * scale[:, None, None, None]  # (B, WAYS, speeds * steps, 2)
            ways = points.reshape(len(points), -1, self.steps, 2)  # (B, modes, steps, 2)
            sure = mass.log()[..., None] + self.confidence(x).log_softmax(dim=-1)  # (B, WAYS, speeds)
            speed = ego[:, 0] + self.speed(x[:, 0])[:, 0]  # (B,)
            return sure.flatten(1), ways, speed, likely

    def _seen(self, drivable_logits: Tensor, ego: Tensor, scale: Tensor) -> Tensor:
        """What speaks for each curve and against it, (B, K, HIDDEN)."""
        place = (self.probes * (scale[:, None, None, None] / self.range_m)).flip(-1)  # (B, K, P, 2): column, then row
        chance = drivable_logits.float().sigmoid()[:, None]  # (B, 1, G, G)
        road = functional.grid_sample(chance, place, align_corners=False)[:, 0]  # (B, K, P)
        along = torch.cat([road, self.shape.expand(len(road), -1, -1)], dim=-1)  # (B, K, P + shape)
        asked = self.asked((ego / self.units).masked_fill(self.is_target, 0.0))  # (B, HIDDEN)
        seen: Tensor = functional.relu(self.road(along) + asked[:, None])
        return seen

    def _off_the_arc(self, ego: Tensor, scale: Tensor) -> Tensor:
        """Mean distance (B, K) of each curve from the arc that the ego is on."""
        metres = self.lengths_m * scale[:, None]  # (B, L)
        speed = ego[:, :1].clamp(min=1.0)
        arc = constant_arc(speed[:, 0], ego[:, 1], metres / speed)  # (B, L, 2)
        gap = self.family[None, :, :, :2] * scale[:, None, None, None] - arc[:, None]
        mean: Tensor = gap.norm(dim=-1).mean(dim=-1)
        return mean

    def _off_the_target(self, ego: Tensor, scale: Tensor) -> Tensor:
        """How far from the route's target each curve passes (B, K), at most `FAR_M`; 0 where it is not known."""
        target = ego[:, _TARGET] / scale[:, None]  # (B, 2)
        gap = (self.family[None, :, :, :2] - target[:, None, None]).norm(dim=-1).amin(dim=-1)  # (B, K)
        missed: Tensor = (gap * scale[:, None]).clamp(max=FAR_M) * ego[:, _HAS_TARGET, None]
        return missed

    def _ways(self, likely: Tensor) -> tuple[Tensor, Tensor]:
        """The best curve and the best that is no neighbour of it (B, WAYS); the chance of each with its neighbours,
        (B, WAYS, K)."""
        chance = likely.softmax(dim=-1)  # (B, K)
        first = likely.argmax(dim=-1)  # (B,)
        taken = self.is_same[first]  # (B, K)
        second = likely.masked_fill(taken, likely.min().detach() - 1.0).argmax(dim=-1)
        also = self.is_same[second] & ~taken
        shares = torch.stack([chance * taken, chance * also], dim=1)
        return torch.stack([first, second], dim=1), shares

    def _among(self, looked: Tensor, around: Surroundings, ego: Tensor) -> Tensor:
        """Each way, with the objects in mind: (B, WAYS, C)."""
        place = self.object_position(around.boxes[..., CENTER][..., :2] / self.range_m)  # (B, Q, C)
        kind = torch.cat([around.boxes / self.box_units, around.class_logits.sigmoid()], dim=-1)  # (B, Q, 10 + classes)
        objects = around.objects + place + self.object_kind(kind)  # (B, Q, C)
        ego = (ego / self.units)[:, None].expand(-1, PATH_WAYS, -1)
        x = self.condition(torch.cat([ego, looked], dim=-1))  # (B, WAYS, C)
        x = x + self.object_attention(self.norms[0](x), objects, objects)
        x = x + self.feed_forward(self.norms[1](x))
        thought: Tensor = self.norms[2](x)
        return thought


def _columns(prefix: str) -> Tensor:
    """(E,) True for the `EGO_FIELDS` whose names begin so."""
    return torch.tensor([name.startswith(prefix) for name in EGO_FIELDS])


def _probes(family: Tensor) -> Tensor:
    """Places (K, P, 2) in metres along each curve and beside it."""
    every = round(PROBE_EVERY_M / STEP_M)
    x, y, heading = family[:, every - 1 :: every, None].unbind(dim=-1)  # (K, along, 1) each
    aside = torch.tensor(PROBES_ASIDE_M, device=family.device)
    places = torch.stack([x - aside * heading.sin(), y + aside * heading.cos()], dim=-1)  # (K, along, aside, 2)
    return places.flatten(1, 2)


def _shape(family: Tensor) -> Tensor:
    """What tells curves from each other, (K, 6), about -1..1."""
    middle, end = family[:, family.shape[1] // 2], family[:, -1]
    units = torch.tensor([LENGTH_M, LENGTH_M, 2.0], device=family.device)
    return torch.cat([middle / units, end / units], dim=-1)


def constant_arc(speed_mps: Tensor, yaw_rate_radps: Tensor, times_s: Tensor) -> Tensor:
    """Positions (B, steps, 2) at `times_s` (steps,) of an ego that keeps its speed (B,) and yaw rate (B,)."""
    angle = yaw_rate_radps[:, None] * times_s  # (B, steps)
    length = speed_mps[:, None] * times_s  # (B, steps)
    # sin(a) / a and (1 - cos(a)) / a by torch's sinc, which has no hole at 0.
    sine = torch.sinc(angle / torch.pi)
    versine = torch.sinc(angle / (2 * torch.pi)) * torch.sin(angle / 2)
    return torch.stack([length * sine, length * versine], dim=-1)
