"""The large network, all but its ResNet-50 made small, learns: what `train --gate base` asks of the whole."""

import torch

from perception.config.training import LossConfig
from perception.models.network import build_network
from perception.training.collate import collate
from perception.training.forward import forward
from perception.training.losses import compute_losses
from perception.training.view_geometry import view_geometry
from tests.training_runs import MINI
from tests.training_scenes import make_frame, pinhole

REDUCED = MINI.model_copy(
    update={
        "image": MINI.image.model_copy(update={"backbone": "resnet50"}),
        "lidar": MINI.lidar.model_copy(update={"sweeps": 3}),
    }
)
STEPS = 6


def test_the_loss_of_a_reduced_base_falls() -> None:
    network = build_network(REDUCED).train()
    frames = [
        make_frame(seed, cameras=(pinhole(60.0, REDUCED),) * 2, objects=4, clutter=100, config=REDUCED)
        for seed in range(2)
    ]
    batch = collate(frames, REDUCED, 50)
    views = view_geometry(batch, REDUCED)
    optimiser = torch.optim.SGD(network.parameters(), lr=2e-3, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad(set_to_none=True)
        loss = compute_losses(forward(network, batch, views), batch, LossConfig(), REDUCED).total
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(torch.isfinite(torch.tensor(losses)))
    assert min(losses[-2:]) < 0.9 * losses[0], losses
    stem = network.camera_encoder.get_submodule("backbone.conv1").weight
    assert isinstance(stem, torch.Tensor)
    assert stem.grad is not None
    assert stem.grad.abs().sum() > 0
