"""Parts of the model by themselves: pillars, peaks, folding, presets."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.core.errors import ModelError
from perception.core.taxonomy import CLASS_INDEX, CLASSES
from perception.models.blocks import ConvNorm, ResidualBlock, cell_centers, speed_up
from perception.models.boxes import BOX_FIELDS, encode_boxes, sizes_of, yaws_of
from perception.models.encoders.lidar import LidarEncoder
from perception.models.encoders.pillars import Pillars
from perception.models.network import build_network
from perception.models.presets import PRESETS, preset
from perception.models.queries import POINT_CLASSES, QueryInit, select_peaks
from tests.model_samples import TINY, noise_inputs

CAR, PEDESTRIAN = CLASS_INDEX["car"], CLASS_INDEX["pedestrian"]


def pillars() -> Pillars:
    torch.manual_seed(0)
    return Pillars(cells=8, range_m=8.0, scale=(1 / 8, 1 / 8, 1.0, 1.0), channels=5).requires_grad_(False)


def test_pillars_are_the_maximum_over_the_points_of_each_cell() -> None:
    module = pillars()
    points = torch.rand(2, 50, 4, generator=torch.Generator().manual_seed(1)) * 16 - 8
    count = torch.tensor([50, 20])
    canvas = module(points, count)
    assert canvas.shape == (2, 5, 8, 8)
    expected = torch.zeros(2, 5, 8, 8)
    for batch in range(2):
        for point in points[batch, : count[batch]]:
            i, j = (int((point[axis] + 8) // 2) for axis in (0, 1))
            within = (point[:2] + 8) / 2 - torch.tensor([i, j]) - 0.5
            feature = module.point(torch.cat([point * module.scale, within])).relu()
            expected[batch, :, i, j] = torch.maximum(expected[batch, :, i, j], feature)
    torch.testing.assert_close(canvas, expected)


def test_padding_and_empty_clouds_leave_no_trace() -> None:
    module = pillars()
    points = torch.rand(1, 30, 4, generator=torch.Generator().manual_seed(2)) * 10
    junk = points.clone()
    junk[:, 12:] = 3.0
    count = torch.tensor([12])
    torch.testing.assert_close(module(points, count), module(junk, count))
    assert not module(junk, torch.tensor([0])).any()


def test_a_point_on_the_far_edge_stays_on_the_canvas() -> None:
    points = torch.tensor([[[8.0, 8.0, 0.0, 1.0], [-8.0, -8.0, 0.0, 1.0]]])
    canvas = pillars()(points, torch.tensor([2]))
    assert canvas[0, :, 7, 7].any()
    assert canvas[0, :, 0, 0].any()
    assert not canvas[0, :, 1:7].any()


def heat(**cells: tuple[int, int, int, float]) -> torch.Tensor:
    logits = torch.full((1, len(CLASSES), 8, 8), -6.0)
    for label, row, column, value in cells.values():
        logits[0, label, row, column] = value
    return logits


def peaks(logits: torch.Tensor, count: int) -> list[tuple[int, int]]:
    is_point = QueryInit(TINY).is_point
    label, cell = select_peaks(logits, count, is_point)
    return list(zip(label[0].tolist(), cell[0].tolist(), strict=True))


def test_neighbouring_cars_are_one_peak_and_neighbouring_pedestrians_two() -> None:
    logits = heat(a=(CAR, 2, 2, 3.0), b=(CAR, 2, 3, 2.0), c=(PEDESTRIAN, 5, 5, 1.5), d=(PEDESTRIAN, 5, 6, 1.0))
    assert peaks(logits, 3) == [(CAR, 18), (PEDESTRIAN, 45), (PEDESTRIAN, 46)]
    assert set(POINT_CLASSES) < set(CLASSES)


def test_equal_scores_are_ordered_by_cell() -> None:
    same = heat(a=(PEDESTRIAN, 6, 1, 2.0), b=(CAR, 0, 4, 2.0), c=(PEDESTRIAN, 3, 3, 2.0))
    assert peaks(same, 3) == [(CAR, 4), (PEDESTRIAN, 27), (PEDESTRIAN, 49)]
    # Rounding in the last bits, as another number of threads gives it, does not change the order.
    assert peaks(same + torch.randn(same.shape) * 1e-7, 3) == peaks(same, 3)


def test_folding_norms_changes_nothing_but_the_speed() -> None:
    network = build_network(TINY)
    with torch.no_grad():
        for name, buffer in network.named_buffers():  # as if trained: no norm is the identity
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    network.eval().requires_grad_(False)
    inputs = noise_inputs(0)
    images = torch.randint(0, 256, (2, 3, 128, 352), dtype=torch.uint8)
    before, image_before = network.fuse(inputs), network.encode_cameras(images)
    speed_up(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network.encode_cameras(images), image_before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.fuse(inputs).heat_logits, before.heat_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("inputs", [3, 4, 12, 16])
def test_the_shortcut_of_a_strided_block_is_a_strided_1x1_convolution(inputs: int) -> None:
    """With its gradient, and without the strided 1x1 convolution whose gradient corrupts memory (see the block)."""
    torch.manual_seed(3)
    block = ResidualBlock(inputs, 8, stride=2).double().eval()
    assert not [
        m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1)
    ]
    x = torch.randn(2, inputs, 9, 12, dtype=torch.float64, requires_grad=True)
    assert isinstance(block.shortcut, ConvNorm)
    shortcut = functional.conv2d(x, block.shortcut.conv.weight, stride=2)
    expected = functional.relu(block.second(block.first(x)) + block.shortcut.norm(shortcut))
    out = block(x)
    torch.testing.assert_close(out, expected)
    direction = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, direction)
    (wanted,) = torch.autograd.grad(expected, x, direction)
    torch.testing.assert_close(gradient, wanted)


def test_cells_run_forward_by_row_and_left_by_column() -> None:
    centers = cell_centers(4).reshape(4, 4, 2)
    assert torch.equal(centers[3, 0], torch.tensor([0.75, -0.75]))


def test_boxes_survive_packing() -> None:
    rng = np.random.default_rng(0)
    center, size = rng.normal(size=(20, 3)) * 20, rng.uniform(0.2, 12, (20, 3))
    yaw, velocity = rng.uniform(-np.pi, np.pi, 20), rng.normal(size=(20, 2))
    packed = encode_boxes(center, size, yaw, velocity)
    assert packed.shape == (20, len(BOX_FIELDS))
    np.testing.assert_allclose(packed[:, :3], center, rtol=1e-6)
    np.testing.assert_allclose(sizes_of(packed), size, rtol=1e-5)
    np.testing.assert_allclose(yaws_of(packed), yaw, atol=1e-5)
    np.testing.assert_allclose(packed[:, 8:], velocity, rtol=1e-5)


def test_every_preset_can_be_built_and_is_named_as_it_is_called() -> None:
    for name, config in PRESETS.items():
        assert config.name == name
        assert sum(p.numel() for p in build_network(config).parameters()) > 1_000_000
    with pytest.raises(ModelError, match="tiny, small"):
        preset("huge")


def test_a_canvas_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ModelError, match=r"lidar\.canvas / bev_cells is 8"):
        LidarEncoder(ModelConfig.model_validate({"bev_cells": 16, "memory_cells": 16}))
