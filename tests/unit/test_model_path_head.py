"""The path head learns ways that depend on where things are: on an object's place, on the road's, on the route's."""

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from perception.models.heads.path import PathHead, Surroundings
from perception.models.tensors import EGO_FIELDS
from tests.model_samples import TINY

SMALL = TINY.model_copy(update={"bev_cells": 16, "memory_cells": 8, "width": 48})
MEMORY = SMALL.memory_cells
STEPS, SAMPLES = 300, 16


def surroundings(count: int, seed: int) -> Surroundings:
    """Nothing but one object of many at a place of its own, and no road; the ego stands."""
    random = torch.Generator().manual_seed(seed)
    position = torch.randn(1 + MEMORY**2, SMALL.width, generator=torch.Generator().manual_seed(0))  # a grid encoding
    boxes = torch.zeros(count, 4, 10)
    boxes[..., :2] = SMALL.range_m / 2 * (2 * torch.rand(count, 1, 2, generator=random) - 1)
    return Surroundings(
        objects=torch.zeros(count, 4, SMALL.width),
        class_logits=torch.full((count, 4, 10), -4.0),
        boxes=boxes,
        tokens=position.expand(count, -1, -1),
        bias=torch.zeros(count, 1 + MEMORY**2),
        drivable_logits=torch.full((count, SMALL.bev_cells, SMALL.bev_cells), -6.0),
        ego=torch.zeros(count, len(EGO_FIELDS)),
    )


def changed(around: Surroundings, **values: Tensor) -> Surroundings:
    return Surroundings(**{field.name: getattr(around, field.name) for field in fields(around)} | values)


def error_of_new_ones(make: Callable[[int], tuple[Surroundings, Tensor]]) -> float:
    """Mean distance in units of the targets' spread, after learning from other samples; 1 where nothing was learned.

    make: samples of a seed, and where their ways end (B, 2).
    """
    torch.manual_seed(0)
    head = PathHead(SMALL)
    head.reset()
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for step in range(STEPS):
        around, wanted = make(step)
        _, ways, _ = head(around)
        loss = (ways[:, :, -1] - wanted[:, None]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    around, wanted = make(10_000)
    with torch.no_grad():
        found = head(around)[1][:, 0, -1]
    return float((found - wanted).norm(dim=1).mean() / (wanted - wanted.mean(dim=0)).norm(dim=1).mean())


def test_a_way_may_lead_to_where_an_object_is() -> None:
    def make(seed: int) -> tuple[Surroundings, Tensor]:
        around = surroundings(SAMPLES, seed)
        return around, around.boxes[:, 0, :2] / 4

    assert error_of_new_ones(make) < 0.3


def test_a_way_may_follow_the_road() -> None:
    cell_m = 2 * SMALL.range_m / SMALL.bev_cells

    def make(seed: int) -> tuple[Surroundings, Tensor]:
        around = surroundings(SAMPLES, 0)
        middle = torch.randint(2, SMALL.bev_cells - 2, (SAMPLES,), generator=torch.Generator().manual_seed(seed))
        columns = torch.arange(SMALL.bev_cells)
        is_road = (columns[None] - middle[:, None]).abs() <= 1  # (B, G)
        logits = torch.where(is_road, 6.0, -6.0)[:, None].expand(-1, SMALL.bev_cells, -1)
        aside_m = (middle + 0.5) * cell_m - SMALL.range_m
        return changed(around, drivable_logits=logits), torch.stack([0 * aside_m, aside_m / 4], dim=1)

    assert error_of_new_ones(make) < 0.3


def test_a_way_may_end_where_the_route_says() -> None:
    def make(seed: int) -> tuple[Surroundings, Tensor]:
        around = surroundings(SAMPLES, 0)
        distance_m = 40 * torch.rand(SAMPLES, generator=torch.Generator().manual_seed(seed))
        ego = around.ego.clone()
        ego[:, EGO_FIELDS.index("route_distance_m")] = distance_m
        return changed(around, ego=ego), torch.stack([distance_m, 0 * distance_m], dim=1)

    assert error_of_new_ones(make) < 0.3
