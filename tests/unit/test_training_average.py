"""The moving average of the weights."""

import pytest
import torch

from perception.models.network import build_network
from perception.training.average import Average
from tests.training_runs import MINI


def test_the_horizon_grows_up_to_the_decay() -> None:
    network = build_network(MINI)
    average = Average(network, decay=0.5)
    parameter, averaged = network.memory.null, average.network.memory.null
    with torch.no_grad():
        parameter.fill_(1.0)
        averaged.fill_(0.0)
    expected = 0.0
    for step in range(12):
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        assert averaged.mean().item() == pytest.approx(expected, rel=1e-5)
    assert decay == 0.5


def test_statistics_of_the_norms_are_averaged_too_and_the_network_is_left_alone() -> None:
    network = build_network(MINI).train()
    average = Average(network, decay=0.9)
    norm, averaged = network.camera_encoder.stem.norm, average.network.camera_encoder.stem.norm
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert isinstance(averaged, torch.nn.BatchNorm2d)
    assert norm.running_var is not None
    assert averaged.running_var is not None
    norm.running_var.fill_(3.0)
    average.update(0)
    assert torch.allclose(averaged.running_var, torch.tensor(1.0 + 0.9 * 2.0))
    assert torch.equal(norm.running_var, torch.full_like(norm.running_var, 3.0))
    assert network.training
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
