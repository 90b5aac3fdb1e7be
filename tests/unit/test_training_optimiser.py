"""The rate's cycle, what decays, clipping, and steps that are not finite."""

from typing import Literal

import pytest
import torch
from torch import nn

from perception.config.training import OptimiserConfig
from perception.models.network import build_network
from perception.training.optimiser import Optimiser, Statistics, learning_rate, split_by_decay
from tests.training_runs import MINI

Name = Literal["adamw", "adam", "rmsprop", "sgd"]
NAMES: tuple[Name, ...] = ("adamw", "adam", "rmsprop", "sgd")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x))
        return y


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    config = OptimiserConfig(peak_rate=2e-3, warmup=0.25)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(2e-3 / 25)
    assert rates[25] == pytest.approx(2e-3)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[-1] < 2e-3 * 1e-3


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_cycle_of_one_half_only(warmup: float) -> None:
    rates = [learning_rate(step, 10, OptimiserConfig(warmup=warmup)) for step in range(10)]
    assert all(0 < rate <= 1e-3 for rate in rates)
    assert rates == sorted(rates, reverse=warmup == 0)


def test_only_weights_of_layers_decay() -> None:
    network = build_network(MINI)
    decayed, free = split_by_decay(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert len(decayed) + len(free) == len(names)
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decayed)
    kept = {names[id(p)] for p in free}
    assert {"query_init.class_embedding.weight", "path_head.inertia", "memory.norm.weight"} <= kept
    assert not any(name.endswith("conv.weight") for name in kept)


@pytest.mark.parametrize("name", NAMES)
def test_decay_moves_weights_whose_gradient_is_zero_but_not_biases(name: Name) -> None:
    network = small()
    before = weights(network)
    optimiser = Optimiser(network, OptimiserConfig(name=name, weight_decay=0.1), steps=10)
    optimiser.step(5, torch.tensor(0.0))
    changed = [not torch.equal(a, b) for a, b in zip(before, weights(network), strict=True)]
    assert changed == [True, False, False, False]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_leaves_no_trace(name: Name, bad: str) -> None:
    found = []
    for is_disturbed in (False, True):
        network = small()
        optimiser = Optimiser(network, OptimiserConfig(name=name), steps=10)
        for step in range(3):
            optimiser.zero()
            loss = network(torch.ones(2, 2, 4, 4) * torch.arange(2).view(2, 1, 1, 1)).square().sum()
            if is_disturbed and step == 0:
                before = weights(network)
                (loss * (torch.nan if bad == "gradient" else 1.0)).backward()
                norm, is_finite = optimiser.step(step, loss * torch.inf if bad == "loss" else loss)
                assert not is_finite
                assert norm.isfinite() == (bad == "loss")
                assert all(torch.equal(a, b) for a, b in zip(before, weights(network), strict=True))
                optimiser.zero()
                loss = network(torch.ones(2, 2, 4, 4) * torch.arange(2).view(2, 1, 1, 1)).square().sum()
            loss.backward()
            assert optimiser.step(step, loss)[1]
        found.append(weights(network))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradients_are_clipped_to_a_norm_and_the_norm_before_is_told() -> None:
    network = small()
    optimiser = Optimiser(network, OptimiserConfig(clip_norm=0.5), steps=10)
    for gradient in optimiser.gradients:
        gradient.fill_(3.0)
    norm, _ = optimiser.step(0, torch.tensor(1.0))
    count = sum(gradient.numel() for gradient in optimiser.gradients)
    assert float(norm) == pytest.approx(3.0 * count**0.5, rel=1e-5)
    assert float(nn.utils.get_total_norm(optimiser.gradients)) == pytest.approx(0.5, rel=1e-4)


def test_statistics_of_a_step_that_was_not_finite_are_forgotten() -> None:
    network = small().train()
    statistics = Statistics(network)
    network(torch.randn(2, 2, 4, 4))
    statistics.keep_if(torch.tensor(True))
    assert network.norm.running_mean is not None
    kept = network.norm.running_mean.clone()
    assert kept.abs().sum() > 0
    network(torch.full((2, 2, 4, 4), torch.nan))
    assert network.norm.running_mean.isnan().all()
    statistics.keep_if(torch.tensor(False))
    assert torch.equal(network.norm.running_mean, kept)
