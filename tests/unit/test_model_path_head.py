"""The path head learns from few samples to follow the road, to obey the route, and to stop for who is in the way."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from perception.config.schema import PATH_WAYS, ModelConfig
from perception.core.taxonomy import CLASSES
from perception.models.heads.curves import (
    LENGTH_M,
    MAX_SCALE,
    STEP_M,
    curves,
    distance_from_curves,
    points_at,
    scale_of,
)
from perception.models.heads.path import APART_M, PathHead, Surroundings, constant_arc
from perception.models.tensors import EGO_FIELDS
from perception.training.losses_path import path_losses
from perception.training.path_stage import PathAnswer
from tests.model_samples import TINY

STEPS, SAMPLES, SPEED_MPS = 150, 16, 8.0
TIMES_S = torch.arange(1, TINY.path_steps + 1) * TINY.path_step_s
CELL_M = 2 * TINY.range_m / TINY.bev_cells
CENTERS_M = (torch.arange(TINY.bev_cells) + 0.5) * CELL_M - TINY.range_m


def surroundings(count: int) -> Surroundings:
    """No road, nobody there; the ego goes straight on at `SPEED_MPS`."""
    ego = torch.zeros(count, len(EGO_FIELDS))
    ego[:, EGO_FIELDS.index("speed_mps")] = SPEED_MPS
    return Surroundings(
        drivable_logits=torch.full((count, TINY.bev_cells, TINY.bev_cells), -6.0),
        objects=torch.zeros(count, 4, TINY.width),
        class_logits=torch.full((count, 4, len(CLASSES)), -6.0),
        boxes=torch.zeros(count, 4, 10),
        ego=ego,
    )


def road(bend_per_m: Tensor, half_width_m: float = 3.0) -> Tensor:
    """Drivable logits (B, G, G) of roads y = bend x^2 / 2 that begin under the ego."""
    x, y = CENTERS_M[:, None], CENTERS_M[None]
    is_road = (y - bend_per_m[:, None, None] * x.abs() * x / 2).abs() < half_width_m
    return torch.where(is_road, 6.0, -6.0)


def learned(make: Callable[[int], tuple[Surroundings, Tensor]]) -> float:
    """Mean distance in metres of the surest way from new samples' ways, after learning from others.

    make: samples of a seed, and the ways (B, S, 2) that were driven.
    """
    torch.manual_seed(0)
    head = PathHead(TINY)
    head.reset()
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3)
    # The steps end small: with large ones the last of them decides, and rounding with it, which machines differ in.
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1.0, end_factor=0.02, total_iters=STEPS)

    def answer(around: Surroundings) -> PathAnswer:
        logits, ways, speed, curve = head(around)
        return PathAnswer(mode_logits=logits, waypoints_m=ways, target_speed_mps=speed, curve_logits=curve)

    for step in range(STEPS):
        around, wanted = make(step)
        losses = path_losses(answer(around), _Driven(around, wanted))
        optimiser.zero_grad()
        torch.stack([losses["path"], losses["mode"], losses["curve"]]).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    around, wanted = make(10_000)
    with torch.no_grad():
        found = answer(around)
    surest = found.waypoints_m[torch.arange(len(wanted)), found.mode_logits.argmax(dim=1)]
    return float((surest - wanted).norm(dim=-1).mean())


class _Driven:
    def __init__(self, around: Surroundings, path_m: Tensor) -> None:
        self.ego, self.path_m = around.ego, path_m
        self.path_known = torch.ones(path_m.shape[:2], dtype=torch.bool)
        self.target_speed_mps = torch.full((len(path_m),), torch.nan)


def random_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_way_follows_the_road() -> None:
    def make(seed: int) -> tuple[Surroundings, Tensor]:
        bend = 0.06 * (2 * torch.rand(SAMPLES, generator=random_of(seed)) - 1)
        around = replace(surroundings(SAMPLES), drivable_logits=road(bend))
        way = constant_arc(torch.full((SAMPLES,), SPEED_MPS), bend * SPEED_MPS, TIMES_S)
        return around, way

    _, ways = make(10_000)
    straight = constant_arc(torch.full((SAMPLES,), SPEED_MPS), torch.zeros(SAMPLES), TIMES_S)
    assert float((ways - straight).norm(dim=-1).mean()) > 2.0
    assert learned(make) < 0.8


def test_the_way_is_the_one_that_the_route_names() -> None:
    crossing = torch.maximum(road(torch.full((SAMPLES,), 0.06)), road(torch.full((SAMPLES,), -0.06)))

    def make(seed: int) -> tuple[Surroundings, Tensor]:
        is_left = torch.rand(SAMPLES, generator=random_of(seed)) < 0.5
        around = replace(surroundings(SAMPLES), drivable_logits=crossing)
        around.ego[:, EGO_FIELDS.index("command_left")] = is_left.float()
        around.ego[:, EGO_FIELDS.index("command_right")] = (~is_left).float()
        bend = torch.where(is_left, 0.06, -0.06)
        return around, constant_arc(torch.full((SAMPLES,), SPEED_MPS), bend * SPEED_MPS, TIMES_S)

    assert learned(make) < 0.8


def test_the_way_leads_to_the_routes_target() -> None:
    torch.manual_seed(0)
    head = PathHead(TINY)
    head.reset()
    around = surroundings(2)
    place = [EGO_FIELDS.index(f"route_target_{name}") for name in ("x_m", "y_m", "is_known")]
    around.ego[:, place] = torch.tensor([[18.0, 12.0, 1.0], [18.0, -12.0, 1.0]])
    logits, ways, _, _ = head(around)
    ends = ways[torch.arange(2), logits.argmax(dim=1), -1]
    assert ends[0, 1] > 2.0
    assert ends[1, 1] < -2.0
    around.ego[:, place] = torch.tensor([18.0, 12.0, 0.0])  # not known: whatever stands there is not looked at
    logits, ways, _, _ = head(around)
    assert ways[torch.arange(2), logits.argmax(dim=1), -1, 1].abs().max() < 1.0


def test_the_ego_stops_behind_who_stands_ahead() -> None:
    def make(seed: int) -> tuple[Surroundings, Tensor]:
        around = replace(surroundings(SAMPLES), drivable_logits=road(torch.zeros(SAMPLES)))
        ahead_m = 6 + 16 * torch.rand(SAMPLES, generator=random_of(seed))
        around.boxes[:, 0, 0] = ahead_m
        around.class_logits[:, 0, 0] = 6.0
        x = torch.minimum(TIMES_S * SPEED_MPS, ahead_m[:, None] - 4)  # (B, S)
        return around, torch.stack([x, 0 * x], dim=-1)

    _, ways = make(10_000)
    assert float((ways[..., 0] - TIMES_S * SPEED_MPS).abs().mean()) > 3.0
    assert learned(make) < 1.5


def test_modes_follow_two_ways_that_differ_and_their_confidences_are_a_distribution() -> None:
    torch.manual_seed(0)
    head = PathHead(TINY)
    logits, ways, _, curve = head(surroundings(3))
    assert ways.shape == (3, TINY.path_modes, TINY.path_steps, 2)
    assert curve.shape == (3, len(curves()))
    ends = ways[:, :: TINY.path_modes // PATH_WAYS, -1]  # of the first speed on each way
    assert (ends[:, 0] - ends[:, 1]).norm(dim=-1).min() > APART_M / 2
    assert (logits.exp().sum(dim=1) <= 1 + 1e-5).all()


def test_modes_that_do_not_divide_among_the_ways_are_refused() -> None:
    with pytest.raises(ValueError, match="path_modes 5 must be a multiple of 2"):
        ModelConfig(path_modes=5)


def test_curves_come_with_their_mirror_images_and_have_the_length_they_say() -> None:
    family = curves()
    mirrored = family * torch.tensor([1.0, -1.0, -1.0])
    gaps = torch.cdist(family.flatten(1), mirrored.flatten(1), p=1).amin(dim=1)
    assert gaps.max() < 1e-4
    steps = torch.diff(family[..., :2], dim=1).norm(dim=-1)
    torch.testing.assert_close(steps, torch.full_like(steps, STEP_M), atol=2e-3, rtol=0)
    assert family.shape[1] * STEP_M == LENGTH_M


def test_a_driven_curve_is_found_again_at_any_speed() -> None:
    family = curves()
    for speed in (2.0, 8.0, 20.0, 40.0):
        scale = scale_of(torch.tensor([speed]))
        length = torch.tensor([4.0, 8.0, 12.0, 16.0, 20.0, 24.0])
        chosen = torch.tensor([3, 100, 200])
        way = points_at(family[chosen, :, :2], length.expand(3, -1)) * scale
        gap, tells = distance_from_curves(way, torch.ones(3, 6, dtype=torch.bool), torch.full((3,), speed))
        assert tells.all()
        assert gap.gather(1, chosen[:, None]).max() < 0.1 * float(scale)
    assert scale_of(torch.tensor([100.0])) == MAX_SCALE


def test_who_stands_tells_no_curve() -> None:
    gap, tells = distance_from_curves(torch.zeros(1, 6, 2), torch.ones(1, 6, dtype=torch.bool), torch.zeros(1))
    assert not tells.any()
    assert gap.isfinite().all()


def test_lines_go_straight_on_beyond_their_end() -> None:
    line = torch.stack([torch.arange(1, 5) * STEP_M, torch.zeros(4)], dim=-1)
    points = points_at(line, torch.tensor([0.0, 0.25, 2.0, 5.0]))
    torch.testing.assert_close(points[:, 0], torch.tensor([0.0, 0.25, 2.0, 5.0]))
