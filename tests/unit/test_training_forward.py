"""The forward pass of training: which sensors learn, and what batch norm remembers."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from perception.config.training import LossConfig
from perception.models.network import PerceptionNetwork
from perception.models.queries import DenoisingQueries
from perception.training.batch import TrainingBatch
from perception.training.denoising import noisy_copies
from perception.training.forward import Outputs, encode_present, forward, picked_rows, stand_in_rows
from perception.training.losses import Losses, compute_losses
from perception.training.losses_decoder import decoder_losses, denoising_loss
from perception.training.losses_dense import dense_losses
from perception.training.losses_image import image_losses
from perception.training.losses_path import path_losses
from perception.training.matching import Matches
from perception.training.targets import objects_of
from perception.training.view_geometry import view_geometry
from tests.training_samples import SMALL, small_batch, small_network, with_sensors

Rows = Callable[[Tensor], tuple[Tensor, Tensor]]

ENCODERS = ("camera", "lidar", "radar")


def run(network: PerceptionNetwork, batch: TrainingBatch, config: LossConfig | None = None) -> tuple[Outputs, Losses]:
    config = LossConfig() if config is None else config
    copies = noisy_copies(batch, config, SMALL, torch.Generator().manual_seed(0))
    outputs = forward(network, batch, view_geometry(batch, SMALL), copies)
    return outputs, compute_losses(outputs, batch, config, SMALL)


def reached(network: PerceptionNetwork) -> set[str]:
    """The encoders all of whose layers have a gradient that is not 0."""
    found = set()
    for name in ENCODERS:
        encoder = getattr(network, f"{name}_encoder")
        if all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in encoder.parameters()):
            found.add(name)
    return found


@pytest.mark.parametrize("present", [("camera",), ("lidar",), ("radar",), ENCODERS])
def test_gradients_reach_the_encoders_of_the_sensors_that_are_there(present: tuple[str, ...]) -> None:
    network = small_network()
    _, losses = run(network, with_sensors(small_batch(5, 3), *present))
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert reached(network) == set(present)
    for name in set(ENCODERS) - set(present):
        for parameter in getattr(network, f"{name}_encoder").parameters():
            assert parameter.grad is None or not parameter.grad.any()


@pytest.mark.parametrize("part", ["heatmap", "box", "path", "drivable"])
@pytest.mark.parametrize("sensor", ENCODERS)
def test_every_encoder_learns_from_every_task(part: str, sensor: str) -> None:
    silent = {name: 0 for name in LossConfig.model_fields if name != "dense_assignments"}
    only = LossConfig.model_validate(silent | {part: 1.0})
    network = small_network()
    _, losses = run(network, with_sensors(small_batch(4, 4), sensor), only)
    losses.total.backward()  # type: ignore[no-untyped-call]
    gradient = [p.grad for p in getattr(network, f"{sensor}_encoder").parameters()]
    assert sum(float(g.abs().sum()) for g in gradient if g is not None) > 0


CASES = {
    "no objects": lambda: small_batch(0, 0),
    "one object": lambda: small_batch(1),
    "one frame without": lambda: small_batch(3, 0),
    "no sensors": lambda: with_sensors(small_batch(3, 2)),
    "no sensors and no objects": lambda: with_sensors(small_batch(0)),
    "no lidar in the rig": lambda: small_batch(2, 3, lidars=0),
    "no radar in the rig": lambda: small_batch(2, 3, radar=False),
    "two lidars": lambda: small_batch(2, 3, lidars=2),
    "more objects than queries": lambda: small_batch(40, 2),
    "labels unknown": lambda: nothing_known(small_batch(2, 1)),
}


def nothing_known(batch: TrainingBatch) -> TrainingBatch:
    boxes = batch.boxes.clone()
    boxes[..., 8:] = torch.nan
    return replace(
        batch,
        boxes=boxes,
        attribute_index=torch.full_like(batch.attribute_index, -1),
        path_m=torch.full_like(batch.path_m, torch.nan),
        path_known=torch.zeros_like(batch.path_known),
        target_speed_mps=torch.full_like(batch.target_speed_mps, torch.nan),
        drivable_known=torch.zeros_like(batch.drivable_known),
    )


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_finite_whatever_is_missing(case: str) -> None:
    network = small_network()
    _, losses = run(network, CASES[case]())
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.total.isfinite()
    assert float(losses.total.detach()) == pytest.approx(sum(map(float, losses.parts.values())), rel=1e-5)
    no_weights = {"velocity", "mode_softness_m", "denoising_queries", "dense_assignments"}
    assert set(losses.parts) == set(LossConfig.model_fields) - no_weights
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
    for name, buffer in network.named_buffers():
        assert bool(buffer.isfinite().all()), name


def statistics(network: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in network.named_buffers() if "running" in name]


def test_batch_norm_never_sees_an_absent_sensor() -> None:
    both, first = small_network(), small_network()
    batch = small_batch(3, 3)
    is_first = torch.tensor([True, False])
    one_present = replace(
        batch,
        camera_present=batch.camera_present & is_first[:, None],
        lidar_present=batch.lidar_present & is_first[:, None],
        radar_present=is_first,
        images=batch.images * is_first.view(2, 1, 1, 1, 1),
    )
    run(both, one_present)
    run(first, batch.part(slice(0, 1)))
    for name in ("camera_encoder", "lidar_encoder", "radar_encoder", "image_head"):
        pairs = zip(statistics(getattr(both, name)), statistics(getattr(first, name)), strict=True)
        for mixed, alone in pairs:
            torch.testing.assert_close(mixed, alone)


def test_batch_norm_remembers_nothing_of_a_batch_without_the_sensor() -> None:
    network = small_network()
    before = statistics(network.lidar_encoder)
    run(network, with_sensors(small_batch(3, 3), "camera"))
    after = statistics(network.lidar_encoder)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new)
    assert not all(map(torch.equal, before, statistics_after_lidar(network)))


def statistics_after_lidar(network: PerceptionNetwork) -> list[torch.Tensor]:
    run(network, with_sensors(small_batch(3, 3), "lidar"))
    return statistics(network.lidar_encoder)


def test_encoded_rows_come_back_to_their_places() -> None:
    values = torch.arange(6.0).view(2, 3, 1)
    is_present = torch.tensor([[False, True, True], [False, False, True]])
    encoded = encode_present(nn.Identity(), is_present, values + 10)
    assert encoded[..., 0].tolist() == [[0, 11, 12], [0, 0, 15]]
    none = encode_present(nn.Identity(), torch.zeros(2, 0, dtype=torch.bool), values[:, :0])
    assert none.shape == (2, 0, 1)


@pytest.mark.parametrize("choose", [picked_rows, stand_in_rows])
@pytest.mark.parametrize("present", [[False, True, False, True], [True] * 4, [False] * 4, []])
def test_both_ways_to_choose_rows_encode_only_what_is_there(choose: Rows, present: list[bool]) -> None:
    rows, place = choose(torch.tensor(present, dtype=torch.bool))
    there = [i for i, is_there in enumerate(present) if is_there]
    assert set(rows.tolist()) == set(there or [0])
    assert [int(rows[place[i]]) for i in there] == there
    assert len(place) == len(present)


def test_nothing_but_the_matching_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have no values: whatever would have to ask for one raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which the meta device does not have
    network, batch = small_network().to("meta"), small_batch(3, 2, lidars=2).to("meta")
    real = noisy_copies(small_batch(3, 2), LossConfig(), SMALL, torch.Generator())
    assert real is not None
    copies = DenoisingQueries(**{field.name: getattr(real, field.name).to("meta") for field in fields(real)})
    outputs = forward(network, batch, view_geometry(batch, SMALL), copies)
    objects = objects_of(batch, SMALL)
    shape = (SMALL.layers, *objects.is_object.shape)
    matches = Matches(
        query=torch.zeros(shape, dtype=torch.int64, device="meta"),
        is_matched=torch.zeros(shape, dtype=torch.bool, device="meta"),
    )
    parts = [
        *dense_losses(outputs.tensors, batch, objects, LossConfig(), SMALL).values(),
        *decoder_losses(outputs, objects, matches, LossConfig()).values(),
        *path_losses(outputs.tensors, batch).values(),
        *image_losses(outputs, batch, objects, SMALL).values(),
        denoising_loss(outputs, objects, LossConfig()),
    ]
    torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_batch_is_its_frames() -> None:
    network, batch = small_network().eval(), small_batch(3, 1)
    views = view_geometry(batch, SMALL)
    outputs = forward(network, batch, views)
    assert outputs.denoising is None
    alone = forward(network, batch.part(slice(1, 2)), view_geometry(batch.part(slice(1, 2)), SMALL))
    torch.testing.assert_close(outputs.tensors.heat_logits[1:], alone.tensors.heat_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs.tensors.boxes[:, 1:], alone.tensors.boxes, atol=1e-4, rtol=1e-4)


def test_a_frame_can_be_learned_by_heart() -> None:
    network, batch = small_network(), small_batch(4)
    views = view_geometry(batch, SMALL)
    random = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.0)
    totals = []
    for step in range(60):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / 60)
        outputs = forward(network, batch, views, noisy_copies(batch, LossConfig(), SMALL, random))
        losses = compute_losses(outputs, batch, LossConfig(), SMALL)
        optimiser.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        totals.append({name: float(part) for name, part in losses.parts.items() if name != "denoising"})
    first, last = sum(totals[0].values()), sum(totals[-1].values())
    assert last < first / 10, (totals[0], totals[-1])
