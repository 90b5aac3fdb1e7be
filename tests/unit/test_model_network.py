"""The network with any set of sensors: finite, of the right shape, and blind to what is absent."""

import itertools
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from perception.config.schema import PATH_WAYS
from perception.core.stages import FuseRequest
from perception.core.taxonomy import ATTRIBUTES, CLASSES
from perception.models.bench import surround_request
from perception.models.boxes import BOX_FIELDS
from perception.models.encoders.camera import STRIDE
from perception.models.heads.curves import curves
from perception.models.heads.depth import DEPTH_BINS
from perception.models.network import PerceptionNetwork, build_network
from perception.models.preprocess import LIDAR_FIELDS, RADAR_FIELDS
from perception.models.tensors import FusionInputs, FusionTensors, collate
from tests.model_samples import TINY, noise_inputs, tiny_network

SUBSETS = list(itertools.product([False, True], repeat=3))
CELLS = TINY.bev_cells**2
QUERIES = TINY.heatmap_queries + TINY.learned_queries


def fuse(inputs: FusionInputs) -> FusionTensors:
    with torch.inference_mode():
        return tiny_network().fuse(inputs)


def outputs(tensors: FusionTensors) -> dict[str, Tensor]:
    return {field.name: getattr(tensors, field.name) for field in fields(tensors)}


def with_cameras(tensors: FusionTensors, order: list[int]) -> FusionTensors:
    """The outputs with what is said of each camera in another order, or of some cameras only."""
    return replace(tensors, depth_logits=tensors.depth_logits[:, order])


def assert_close(first: FusionTensors, second: FusionTensors, atol: float) -> None:
    for name, tensor in outputs(first).items():
        other = outputs(second)[name]
        assert torch.allclose(tensor, other, atol=atol, rtol=1e-5), f"{name}: {(tensor - other).abs().max()}"


@pytest.mark.parametrize(("camera", "lidar", "radar"), SUBSETS)
def test_any_sensors_give_finite_outputs_of_the_same_shape(camera: bool, lidar: bool, radar: bool) -> None:
    tensors = fuse(noise_inputs(1, camera=camera, lidar=lidar, radar=radar))
    layers, g = TINY.layers, TINY.bev_cells
    shapes = {
        "heat_logits": (1, len(CLASSES), g, g),
        "dense_boxes": (1, CELLS, len(BOX_FIELDS)),
        "drivable_logits": (1, g, g),
        "class_logits": (layers, 1, QUERIES, len(CLASSES)),
        "boxes": (layers, 1, QUERIES, len(BOX_FIELDS)),
        "attribute_logits": (layers, 1, QUERIES, len(ATTRIBUTES)),
        "query_cell": (1, QUERIES),
        "mode_logits": (1, TINY.path_modes),
        "curve_logits": (1, len(curves())),
        "waypoints_m": (1, TINY.path_modes, TINY.path_steps, 2),
        "target_speed_mps": (1,),
        "depth_logits": (1, 6, TINY.image.height_px // STRIDE * TINY.image.width_px // STRIDE, DEPTH_BINS),
    }
    for name, tensor in outputs(tensors).items():
        assert tuple(tensor.shape) == shapes[name], name
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize(("camera", "lidar", "radar"), [subset for subset in SUBSETS if not all(subset)])
def test_what_an_absent_sensor_holds_changes_nothing(camera: bool, lidar: bool, radar: bool) -> None:
    inputs = noise_inputs(2, camera=camera, lidar=lidar, radar=radar)
    changed = {}
    for field in fields(inputs):
        value = getattr(inputs, field.name)
        is_absent = not {"camera": camera, "lidar": lidar, "radar": radar}.get(field.name.split("_")[0], True)
        if is_absent and value.is_floating_point():
            changed[field.name] = torch.full_like(value, float("nan") if "features" in field.name else 7.0)
    assert changed
    assert_close(fuse(inputs), fuse(replace(inputs, **changed)), atol=0.0)


@pytest.mark.parametrize("modality", ["camera", "lidar", "radar"])
def test_every_present_sensor_counts(modality: str) -> None:
    inputs = noise_inputs(3)
    name = f"{modality}_features"
    other = replace(inputs, **{name: getattr(inputs, name) * 1.5})
    before, after = fuse(inputs), fuse(other)
    assert (before.heat_logits - after.heat_logits).abs().max() > 1e-3
    assert (before.class_logits - after.class_logits).abs().max() > 1e-4


def test_one_lost_camera_is_like_a_camera_that_is_not_there() -> None:
    request = surround_request()
    inputs = noise_inputs(4)
    masked = replace(inputs, camera_present=torch.arange(6)[None] != 5)
    without = noise_inputs(4, request=replace(request, cameras=request.cameras[:5]))
    kept = {
        field.name: getattr(inputs, field.name)[:, :5]
        if field.name.startswith("camera_")
        else getattr(inputs, field.name)
        for field in fields(inputs)
        if not field.name.startswith("lift_")
    }
    assert_close(with_cameras(fuse(masked), list(range(5))), fuse(replace(without, **kept)), atol=1e-4)


def test_a_batch_is_its_bundles() -> None:
    request = surround_request()
    bundles = [
        noise_inputs(5),
        noise_inputs(6, radar=False, lidars=2, request=replace(request, cameras=request.cameras[:2])),
        noise_inputs(7, lidar=False, lidars=0, request=replace(request, cameras=())),
    ]
    together = fuse(collate(bundles))
    for row, bundle in enumerate(bundles):
        alone = fuse(bundle)
        of_row = {
            name: tensor[:, row : row + 1]
            if name in ("class_logits", "boxes", "attribute_logits")
            else tensor[row : row + 1]
            for name, tensor in outputs(together).items()
        }
        cameras = list(range(bundle.camera_present.shape[1]))
        assert_close(with_cameras(FusionTensors(**of_row), cameras), alone, atol=1e-5)


def permuted(request: FuseRequest, order: list[int]) -> FuseRequest:
    return replace(request, cameras=tuple(request.cameras[i] for i in order))


def test_the_order_of_cameras_does_not_matter() -> None:
    order = [3, 0, 5, 1, 4, 2]
    inputs = noise_inputs(8)
    turned = noise_inputs(8, request=permuted(surround_request(), order))
    turned = replace(
        turned,
        camera_features=inputs.camera_features[:, order],
        camera_age_s=inputs.camera_age_s[:, order],
    )
    assert_close(with_cameras(fuse(inputs), order), fuse(turned), atol=1e-4)


def test_the_order_of_lidars_does_not_matter() -> None:
    inputs = noise_inputs(9, lidars=3)
    order = [2, 0, 1]
    turned = replace(
        inputs,
        lidar_features=inputs.lidar_features[:, order],
        lidar_age_s=inputs.lidar_age_s[:, order],
        lidar_present=inputs.lidar_present[:, order],
    )
    assert_close(fuse(inputs), fuse(turned), atol=0.0)


def test_queries_start_from_the_heatmap_and_the_decoder_says_so() -> None:
    tensors = fuse(noise_inputs(10))
    cell = tensors.query_cell[0]
    assert torch.equal(cell[TINY.heatmap_queries :], CELLS + torch.arange(TINY.learned_queries))
    assert cell[: TINY.heatmap_queries].max() < CELLS
    heat = tensors.heat_logits[0].flatten(1).T[cell[: TINY.heatmap_queries]]
    assert (tensors.class_logits[-1, 0, : TINY.heatmap_queries] - heat).abs().max() < 0.5
    boxes = tensors.dense_boxes[0, cell[: TINY.heatmap_queries]]
    assert (tensors.boxes[-1, 0, : TINY.heatmap_queries] - boxes).abs().max() < 1.0


def test_an_untrained_path_follows_the_arc_that_the_ego_is_on() -> None:
    inputs = noise_inputs(11)
    ego = torch.zeros_like(inputs.ego)
    ego[0, 0], ego[0, 1] = 8.0, 0.3
    tensors = fuse(replace(inputs, ego=ego))
    t = torch.arange(1, TINY.path_steps + 1) * TINY.path_step_s
    arc = torch.stack([8.0 / 0.3 * torch.sin(0.3 * t), 8.0 / 0.3 * (1 - torch.cos(0.3 * t))], dim=-1)
    surest_way = tensors.waypoints_m[0, : TINY.path_modes // PATH_WAYS]  # the others are to differ
    assert (surest_way - arc).abs().max() < 2.0
    assert abs(float(tensors.target_speed_mps[0]) - 8.0) < 2.0


@pytest.fixture(scope="module")
def trained_step() -> PerceptionNetwork:
    """A network after one backward pass through all of its outputs."""
    network = build_network(TINY).train()
    random = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (6, 3, TINY.image.height_px, TINY.image.width_px), generator=random, dtype=torch.uint8
    )
    points = torch.rand(1, TINY.lidar.max_points, len(LIDAR_FIELDS), generator=random) * 20
    returns = torch.rand(1, TINY.radar.max_points, len(RADAR_FIELDS), generator=random) * 20
    cameras = network.encode_cameras(images)
    inputs = replace(
        noise_inputs(0),
        camera_features=cameras[None],
        lidar_features=network.encode_lidar(points, torch.tensor([9000]))[None],
        radar_features=network.encode_radar(returns, torch.tensor([200])),
    )
    total = network.image_heat(cameras).square().mean()
    for name, tensor in outputs(network.fuse(inputs)).items():
        if name != "query_cell":
            total = total + (tensor - 1).square().mean()
    total.backward()  # type: ignore[no-untyped-call]
    return network


def test_every_parameter_learns(trained_step: PerceptionNetwork) -> None:
    for name, parameter in trained_step.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    still = {name for name, p in trained_step.named_parameters() if not p.grad.abs().max() > 0}  # type: ignore[union-attr]
    # A key's bias shifts all scores of a query alike, so softmax takes no notice of it: its gradient is rounding.
    assert {name for name in still if not name.endswith("key.bias")} == set()


@pytest.mark.parametrize("encoder", ["camera_encoder", "lidar_encoder", "radar_encoder"])
def test_the_gradient_reaches_the_first_layer_of_each_encoder(trained_step: PerceptionNetwork, encoder: str) -> None:
    first = next(iter(getattr(trained_step, encoder).parameters()))
    assert first.grad.abs().max() > 1e-8


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second = build_network(TINY), build_network(TINY)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    other = build_network(TINY.model_copy(update={"seed": 1}))
    assert not torch.equal(next(iter(first.parameters())), next(iter(other.parameters())))
