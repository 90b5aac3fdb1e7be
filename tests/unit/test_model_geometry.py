"""The lift samples the right pixel: a mark on one image token turns up in the cells behind it, only there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection
from perception.core.geometry import invert, se3, se3_from_yaw, transform_points
from perception.core.stages import CameraView
from perception.models.bench import surround_request
from perception.models.encoders.camera import STRIDE
from perception.models.geometry import ViewGeometry, Views
from perception.models.lift import CameraLift, sample_tokens
from perception.models.preprocess import ImageTransform
from perception.models.tensors import collate
from tests.model_samples import TINY, noise_inputs

Float = NDArray[np.float64]
COLUMNS, ROWS = TINY.image.width_px // STRIDE, TINY.image.height_px // STRIDE
HEIGHTS = len(TINY.lift_heights_m)

INTRINSIC = np.array([[900.0, 0.0, 799.5], [0.0, 900.0, 449.5], [0.0, 0.0, 1.0]])
FISHEYE = np.array([[420.0, 0.0, 799.5], [0.0, 420.0, 449.5], [0.0, 0.0, 1.0]])
CAMERAS = {
    "pinhole": CameraModel(width_px=1600, height_px=900, intrinsic=INTRINSIC),
    "brown": CameraModel(
        width_px=1600,
        height_px=900,
        intrinsic=INTRINSIC,
        projection=Projection.BROWN,
        distortion=np.array([-0.24, 0.07, 0.001, -0.002, -0.01]),
    ),
    "mei": CameraModel(
        width_px=1600,
        height_px=900,
        intrinsic=FISHEYE * np.array([[1.9], [1.9], [1.0]]),
        projection=Projection.MEI,
        distortion=np.array([-0.1, 0.02, 0.001, 0.001]),
        xi=0.9,
    ),
    "kannala_brandt": CameraModel(
        width_px=1600,
        height_px=900,
        intrinsic=FISHEYE,
        projection=Projection.KANNALA_BRANDT,
        distortion=np.array([0.05, -0.01, 0.003, -0.0006]),
    ),
}


def mount(yaw_rad: float = 0.0) -> Float:
    """A camera 1.5 m up, tilted down a little, that looks along `yaw_rad`."""
    axes = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(0.1), -np.sin(0.1)], [0.0, np.sin(0.1), np.cos(0.1)]])
    return se3_from_yaw(yaw_rad) @ se3(axes @ tilt, [1.2, 0.3, 1.5])


def view(camera: CameraModel, reference_SE3_camera: Float) -> CameraView:
    return CameraView(sensor="camera", camera=camera, reference_SE3_camera=reference_SE3_camera, age_ns=0)


def lift_mark(views: Views, camera: int, row: int, column: int) -> NDArray[np.float32]:
    """The lift's weight (G, G, heights) of one token."""
    cameras = len(views.rays)
    bundle = replace(
        noise_inputs(0, request=replace(surround_request(), cameras=())),
        camera_present=torch.ones(1, cameras, dtype=torch.bool),
        lift_camera=torch.from_numpy(views.lift_camera)[None],
        lift_uv=torch.from_numpy(views.lift_uv)[None],
        lift_depth_m=torch.from_numpy(views.lift_depth_m)[None],
        lift_valid=torch.from_numpy(views.lift_valid)[None],
    )
    marked = torch.zeros(1, cameras, ROWS * COLUMNS, 1)
    marked[0, camera, row * COLUMNS + column] = 1.0
    index, weight, _ = CameraLift(TINY).taps(bundle)
    lifted: NDArray[np.float32] = sample_tokens(marked, index, weight).numpy()
    return lifted.reshape(TINY.bev_cells, TINY.bev_cells, HEIGHTS)


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("token", [(3, 4), (5, 11), (6, 18)])
def test_a_mark_is_seen_from_the_cells_behind_its_pixel(name: str, token: tuple[int, int]) -> None:
    camera, moved = CAMERAS[name], se3_from_yaw(0.7, [2.0, -1.0, 0.0]) @ mount()
    lifted = lift_mark(ViewGeometry(TINY).build([view(camera, moved)]), 0, *token)
    assert lifted.max() > 0.2
    # Any cell, by the slow and plain way: project its centre, and weigh by the distance to the token's middle.
    cell_m = 2 * TINY.range_m / TINY.bev_cells
    line = (np.arange(TINY.bev_cells) + 0.5) * cell_m - TINY.range_m
    grid = np.stack(np.meshgrid(line, line, TINY.lift_heights_m, indexing="ij"), axis=-1).reshape(-1, 3)
    pixels, is_visible = camera.project(transform_points(invert(moved), grid))
    network = ImageTransform.of(TINY.image, 1600, 900).to_network(pixels)
    size = np.array([TINY.image.width_px, TINY.image.height_px])
    is_visible &= np.all((network >= -0.5) & (network < size - 0.5), axis=1)
    at = np.clip((network + 0.5) / STRIDE - 0.5, 0, [COLUMNS - 1, ROWS - 1])
    near = np.clip(1 - np.abs(at - np.array(token[::-1])), 0, 1)
    expected = np.where(is_visible, near[:, 0] * near[:, 1], 0.0).reshape(lifted.shape)
    # A cell exactly on the image's edge may fall on either side of it in single precision.
    assert np.mean(np.abs(lifted - expected) > 2e-3) < 1e-3


@pytest.mark.parametrize("name", CAMERAS)
def test_rays_of_tokens_point_at_what_they_see(name: str) -> None:
    camera, moved = CAMERAS[name], mount(2.0)
    views = ViewGeometry(TINY).build([view(camera, moved)])
    np.testing.assert_allclose(np.linalg.norm(views.rays[0], axis=1), 1.0, atol=1e-5)
    ahead = views.origin_m[0] + 12.0 * views.rays[0]
    pixels, is_visible = camera.project(transform_points(invert(moved), ahead.astype(np.float64)))
    network = ImageTransform.of(TINY.image, 1600, 900).to_network(pixels)
    row, column = np.divmod(np.arange(ROWS * COLUMNS), COLUMNS)
    expected = (np.stack([column, row], axis=1) + 0.5) * STRIDE - 0.5
    assert is_visible.mean() > 0.9
    np.testing.assert_allclose(network[is_visible], expected[is_visible], atol=0.05)


def test_ego_motion_since_capture_moves_what_is_seen() -> None:
    camera = CAMERAS["pinhole"]
    standing = lift_mark(ViewGeometry(TINY).build([view(camera, mount())]), 0, 4, 11)
    cell_m = 2 * TINY.range_m / TINY.bev_cells
    driven = se3(translation=[-3 * cell_m, 0.0, 0.0]) @ mount()  # the camera was three cells back when it looked
    moved = lift_mark(ViewGeometry(TINY).build([view(camera, driven)]), 0, 4, 11)
    np.testing.assert_allclose(moved[:-3], standing[3:], atol=1e-3)


def test_two_cameras_share_what_both_see() -> None:
    camera = CAMERAS["pinhole"]
    views = ViewGeometry(TINY).build([view(camera, mount(0.2)), view(camera, mount(-0.2))])
    seen_by = views.lift_valid.sum(axis=1)
    assert {0, 1, 2} == set(seen_by.tolist())
    both = views.lift_camera[seen_by == 2]
    assert np.all(both[:, 0] != both[:, 1])


def test_at_most_two_cameras_are_sampled_and_the_best_ones() -> None:
    camera = CAMERAS["pinhole"]
    yaws = (0.0, 0.3, -0.3)
    views = ViewGeometry(TINY).build([view(camera, mount(yaw)) for yaw in yaws])
    assert views.lift_camera.shape == (TINY.bev_cells**2 * HEIGHTS, TINY.lift_cameras)
    ahead = (TINY.bev_cells * 3 // 4 * TINY.bev_cells + TINY.bev_cells // 2) * HEIGHTS + 1
    assert views.lift_valid[ahead].all()
    assert 0 in views.lift_camera[ahead]


def test_no_cameras_see_nothing() -> None:
    views = ViewGeometry(TINY).build([])
    assert views.rays.shape == (0, ROWS * COLUMNS, 3)
    assert not views.lift_valid.any()


def test_one_geometry_serves_rigs_in_turn() -> None:
    shared = ViewGeometry(TINY)
    for name in (*CAMERAS, *CAMERAS):
        alone = ViewGeometry(TINY).build([view(CAMERAS[name], mount())])
        again = shared.build([view(CAMERAS[name], mount())])
        np.testing.assert_array_equal(again.rays, alone.rays)
        np.testing.assert_array_equal(again.lift_uv, alone.lift_uv)


def test_an_absent_camera_hands_its_cells_to_the_other() -> None:
    camera = CAMERAS["pinhole"]
    views = ViewGeometry(TINY).build([view(camera, mount(0.2)), view(camera, mount(-0.2))])
    bundle = replace(
        collate([noise_inputs(0, request=replace(surround_request(), cameras=()))]),
        camera_present=torch.tensor([[True, False]]),
        lift_camera=torch.from_numpy(views.lift_camera)[None],
        lift_uv=torch.from_numpy(views.lift_uv)[None],
        lift_depth_m=torch.from_numpy(views.lift_depth_m)[None],
        lift_valid=torch.from_numpy(views.lift_valid)[None],
    )
    _, weight, is_seen = CameraLift(TINY).taps(bundle)
    total = weight[0].sum(dim=-1)
    assert torch.allclose(total[is_seen[0]], torch.ones(1), atol=1e-6)
    assert not total[~is_seen[0]].any()
