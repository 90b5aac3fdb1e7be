"""Depth of image tokens: where it lies among the bins, what the lift makes of it, what the geometry says of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.core.geometry import invert, se3_from_yaw, transform_points
from perception.models.bench import surround_request
from perception.models.geometry import ViewGeometry
from perception.models.heads.depth import DEPTH_BINS, DEPTH_RANGE_M, DepthHead, depth_place
from perception.models.lift import DEPTH_FLOOR, CameraLift, depth_weight
from tests.model_samples import TINY, noise_inputs, tiny_network


def test_a_depth_lies_between_its_two_bins() -> None:
    near, far = DEPTH_RANGE_M
    bins = torch.from_numpy(np.geomspace(near, far, DEPTH_BINS)).float()
    index, share = depth_place(bins)
    torch.testing.assert_close(index + share, torch.arange(DEPTH_BINS).float(), atol=1e-4, rtol=0)
    index, share = depth_place(torch.tensor([0.0, 0.3, 200.0]))
    assert (index + share).tolist() == pytest.approx([0, 0, DEPTH_BINS - 1])
    halfway = torch.sqrt(bins[7] * bins[8])
    index, share = depth_place(halfway)
    assert int(index) == 7
    assert float(share) == pytest.approx(0.5, abs=1e-4)


def test_geometry_measures_depth_along_the_ray() -> None:
    request = surround_request()
    moved = tuple(
        replace(view, reference_SE3_camera=se3_from_yaw(0.1, [1.0, 0.2, 0.0]) @ view.reference_SE3_camera)
        for view in request.cameras
    )
    views = ViewGeometry(TINY).build(moved)
    rng = np.random.default_rng(0)
    point, sample = (index[:400] for index in rng.permutation(np.argwhere(views.lift_valid)).T)
    cell_m = 2 * TINY.range_m / TINY.bev_cells
    cell, height = np.divmod(point, len(TINY.lift_heights_m))
    row, column = np.divmod(cell, TINY.bev_cells)
    places = np.stack([row, column], axis=1) * cell_m + cell_m / 2 - TINY.range_m
    places = np.concatenate([places, np.array(TINY.lift_heights_m)[height][:, None]], axis=1)
    for i, place in enumerate(places):
        view = moved[views.lift_camera[point[i], sample[i]]]
        seen_from = transform_points(invert(view.reference_SE3_camera), place[None])[0]
        assert views.lift_depth_m[point[i], sample[i]] == pytest.approx(np.linalg.norm(seen_from), abs=1e-3)


def test_an_undecided_depth_weighs_nothing() -> None:
    inputs = noise_inputs(0)
    index, _, _ = CameraLift(TINY).taps(inputs)
    even = torch.full((1, 6, inputs.camera_rays.shape[2], DEPTH_BINS), 0.3)
    weight = depth_weight(even, index, inputs.lift_depth_m)
    torch.testing.assert_close(weight, torch.ones_like(weight))


def test_a_token_that_is_sure_is_lifted_to_where_it_looks() -> None:
    inputs = noise_inputs(0)
    index, _, _ = CameraLift(TINY).taps(inputs)
    sure = torch.full((1, 6, inputs.camera_rays.shape[2], DEPTH_BINS), -30.0)
    sure[..., 14] = 30.0
    bins = np.geomspace(*DEPTH_RANGE_M, DEPTH_BINS)
    weight = depth_weight(sure, index, inputs.lift_depth_m)[0, :, : TINY.lift_cameras]
    depth = inputs.lift_depth_m[0]
    is_off = (depth < bins[13]) | (depth > bins[15])
    torch.testing.assert_close(weight[is_off], torch.full_like(weight[is_off], DEPTH_FLOOR), atol=1e-4, rtol=0)
    is_near = (depth > bins[14] * 0.99) & (depth < bins[14] * 1.01)
    assert int(is_near.sum()) > 20
    assert float(weight[is_near].min()) > 0.9 * DEPTH_BINS * (1 - DEPTH_FLOOR)


def test_an_untrained_network_lifts_all_samples_about_alike() -> None:
    inputs = noise_inputs(1)
    with torch.inference_mode():
        chance = tiny_network().fuse(inputs).depth_logits.softmax(dim=-1) * DEPTH_BINS
    assert float((chance - 1).abs().max()) < 0.2


def test_the_head_knows_how_wide_a_token_is_and_where_it_looks() -> None:
    torch.manual_seed(0)
    head = DepthHead(TINY).requires_grad_(False)
    inputs = noise_inputs(2)
    tokens = inputs.camera_features
    before = head(inputs, tokens)
    narrow = inputs.camera_rays.view(1, 6, head.rows, head.columns, 3)
    middle = narrow.mean(dim=(2, 3), keepdim=True)
    narrow = torch.nn.functional.normalize(middle + 0.5 * (narrow - middle), dim=-1)
    after = head(replace(inputs, camera_rays=narrow.flatten(2, 3)), tokens)
    moved = head(replace(inputs, camera_origin_m=inputs.camera_origin_m + torch.tensor([0.0, 0.0, 1.0])), tokens)
    assert float((before - after).abs().mean()) > 1e-3
    assert float((before - moved).abs().mean()) > 1e-3
