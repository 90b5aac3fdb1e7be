"""Where a training batch looks is where the service looks, bundle by bundle, and augmentation moves it rightly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.core.stages import CameraView
from perception.models.geometry import ViewGeometry, Views
from perception.training.batch import TrainingBatch
from perception.training.collate import collate
from perception.training.projection import inverse_affine, project
from perception.training.view_geometry import ViewTensors, lift_points, view_geometry
from sim.rig import load_rig
from tests.model_samples import TINY
from tests.training_scenes import in_network_pixels, make_frame, mounts, pinhole, rig_views
from tests.unit.test_model_geometry import CAMERAS

Float = NDArray[np.float64]
WIDTH, HEIGHT = TINY.image.width_px, TINY.image.height_px
TOKEN_PX = 16
RIGS = ("nuscenes", "aimotive", "kitti", "tiny")


def batch_of(models: tuple[CameraModel, ...], poses: Float) -> TrainingBatch:
    network = [in_network_pixels(model) for model in models]
    tops = np.array([top for _, top in network])
    return collate([make_frame(0, cameras=tuple(m for m, _ in network), poses=poses, top_px=tops)], TINY, 200)


def service_views(models: tuple[CameraModel, ...], poses: Float) -> Views:
    single = poses.astype(np.float32).astype(np.float64)  # as a frame stores them
    views = [
        CameraView(sensor="camera", camera=model, reference_SE3_camera=pose, age_ns=0)
        for model, pose in zip(models, single, strict=True)
    ]
    return ViewGeometry(TINY).build(views)


def assert_same_lift(found: ViewTensors, expected: Views, tolerance_px: float) -> None:
    """Equal but for points on the very edge of an image, which single precision may put on either side."""
    is_valid, camera = found.lift_valid[0].numpy(), found.lift_camera[0].numpy()
    is_same = (is_valid == expected.lift_valid) & ((camera == expected.lift_camera) | ~is_valid)
    assert np.mean(~is_same) < 1e-3
    both = is_same & is_valid
    off_px = np.abs(found.lift_uv[0].numpy() - expected.lift_uv)[both] * TOKEN_PX
    assert off_px.max() < tolerance_px
    np.testing.assert_allclose(found.lift_depth_m[0].numpy()[both], expected.lift_depth_m[both], rtol=1e-5)


@pytest.mark.parametrize("rig", RIGS)
def test_the_shipped_rigs_look_where_the_service_looks(rig: str) -> None:
    models, poses = rig_views(load_rig(rig).sensor_rig)
    found, expected = view_geometry(batch_of(models, poses), TINY), service_views(models, poses)
    assert expected.lift_valid.mean() > 0.2
    assert_same_lift(found, expected, 1e-4)
    np.testing.assert_array_equal(found.camera_origin_m[0].numpy(), expected.origin_m)
    # At the rim of a wide lens rays turn too fast for straight lines between every fourth of them.
    off = np.abs(found.camera_rays[0].numpy() - expected.rays).max(axis=-1)
    assert np.quantile(off, 0.9) < 1e-3
    assert off.max() < 0.03


def test_all_lens_models_in_one_rig() -> None:
    models, poses = tuple(CAMERAS.values()), mounts(4)
    found, expected = view_geometry(batch_of(models, poses), TINY), service_views(models, poses)
    assert set(expected.lift_camera[expected.lift_valid]) == {0, 1, 2, 3}
    assert_same_lift(found, expected, 2e-4)


def test_frames_of_a_batch_do_not_mix() -> None:
    frames = [make_frame(i, cameras=(pinhole(150.0 + 30 * i),) * (2 + i)) for i in range(3)]
    together = view_geometry(collate(frames, TINY, 200), TINY)
    for i, frame in enumerate(frames):
        alone = view_geometry(collate([frame], TINY, 200), TINY)
        assert torch.equal(together.lift_uv[i], alone.lift_uv[0])
        assert torch.equal(together.lift_valid[i], alone.lift_valid[0])
        assert torch.equal(together.camera_rays[i, : 2 + i], alone.camera_rays[0])


def test_the_choice_does_not_depend_on_the_order_of_cameras() -> None:
    models, poses = rig_views(load_rig("nuscenes").sensor_rig)
    order = np.array([3, 5, 0, 1, 4, 2])
    one = view_geometry(batch_of(models, poses), TINY)
    other = view_geometry(batch_of(tuple(models[i] for i in order), poses[order]), TINY)
    assert torch.equal(one.lift_uv, other.lift_uv)
    named = torch.from_numpy(order)[other.lift_camera]
    assert torch.equal(one.lift_camera[one.lift_valid], named[one.lift_valid])


def test_an_absent_camera_hands_its_points_to_the_others() -> None:
    models, poses = (CAMERAS["kannala_brandt"],) * 4, mounts(4)
    batch = batch_of(models, poses)
    without = replace(batch, camera_present=torch.tensor([[True, True, False, True]]))
    kept = [0, 1, 3]
    expected = service_views(tuple(models[i] for i in kept), poses[kept])
    found = view_geometry(without, TINY)
    assert torch.equal(found.lift_valid[0], torch.from_numpy(expected.lift_valid))
    assert not (found.lift_camera[found.lift_valid] == 2).any()


def test_a_zoomed_image_is_a_camera_with_a_longer_lens() -> None:
    zoom, middle = 1.3, (100.0, 50.0)
    camera = pinhole()
    longer = camera.intrinsic.copy()
    longer[:2] *= zoom
    longer[:2, 2] += (1 - zoom) * np.array(middle)
    batch = batch_of((camera,), mounts(1))
    moved = torch.tensor([[zoom, 0.0, (1 - zoom) * middle[0]], [0.0, zoom, (1 - zoom) * middle[1]]])
    found = view_geometry(replace(batch, image_from_network=moved.expand(1, 1, 2, 3)), TINY)
    expected = service_views((replace(camera, intrinsic=longer),), mounts(1))
    assert_same_lift(found, expected, 1e-3)
    np.testing.assert_allclose(found.camera_rays[0].numpy(), expected.rays, atol=1e-4)


def test_a_mirrored_world_with_mirrored_images_is_a_world_with_mirrored_cameras() -> None:
    camera, pose = pinhole(), mounts(3)[1:2]
    moved_center = camera.intrinsic.copy()
    moved_center[0, 2] = WIDTH - 1 - camera.intrinsic[0, 2] + 20.0
    camera = replace(camera, intrinsic=camera.intrinsic - np.array([[0, 0, 20.0], [0, 0, 0], [0, 0, 0]]))
    mirror = np.diag([1.0, -1.0, 1.0, 1.0])
    expected = service_views((replace(camera, intrinsic=moved_center),), mirror @ pose @ np.diag([-1.0, 1.0, 1.0, 1.0]))
    batch = batch_of((camera,), mirror @ pose)
    flipped = torch.tensor([[-1.0, 0.0, WIDTH - 1.0], [0.0, 1.0, 0.0]]).expand(1, 1, 2, 3)
    found = view_geometry(replace(batch, image_from_network=flipped), TINY)
    assert_same_lift(found, expected, 1e-3)
    np.testing.assert_allclose(found.camera_rays[0].numpy(), expected.rays, atol=1e-4)
    np.testing.assert_allclose(found.camera_origin_m[0].numpy(), expected.origin_m, atol=1e-6)


def test_depths_are_metres_of_a_scaled_world() -> None:
    batch = batch_of((CAMERAS["brown"],) * 2, mounts(2))
    scaled = replace(
        batch, reference_SE3_camera=torch.diag(torch.tensor([1.2, 1.2, 1.2, 1])) @ batch.reference_SE3_camera
    )
    found = view_geometry(scaled, TINY)
    points = lift_points(TINY, torch.device("cpu"))
    off = points[:, None] - found.camera_origin_m[0, found.lift_camera[0]]  # (P, K, 3)
    is_valid = found.lift_valid[0]
    torch.testing.assert_close(found.lift_depth_m[0][is_valid], off.norm(dim=-1)[is_valid], rtol=1e-5, atol=1e-5)
    assert torch.allclose(found.camera_rays.norm(dim=-1), torch.ones(1), atol=1e-5)


def test_padding_rows_do_not_count_as_seen() -> None:
    batch = batch_of((pinhole(),), mounts(1))
    padded = batch.cameras.clone()
    padded[..., -1] = 60.0
    found = view_geometry(replace(batch, cameras=padded), TINY)
    rows_px = (found.lift_uv[..., 1][found.lift_valid] + 0.5) * TOKEN_PX - 0.5
    assert rows_px.min() >= 59.5
    assert view_geometry(batch, TINY).lift_valid.sum() > found.lift_valid.sum() > 0


def test_no_cameras_see_nothing() -> None:
    found = view_geometry(collate([make_frame(0, cameras=())], TINY, 200), TINY)
    assert found.camera_rays.shape == (1, 0, WIDTH * HEIGHT // TOKEN_PX**2, 3)
    assert not found.lift_valid.any()


@pytest.mark.parametrize("name", CAMERAS)
def test_points_project_as_the_camera_model_says(name: str) -> None:
    camera, _ = in_network_pixels(CAMERAS[name])
    points = np.random.default_rng(0).uniform(-30, 30, (1, 4000, 3)).astype(np.float32)
    batch = batch_of((CAMERAS[name],), mounts(1))
    found = project(batch, torch.from_numpy(points))
    linear, offset = inverse_affine(batch.reference_SE3_camera[0, 0])
    pixels, is_visible = camera.project(points[0] @ linear.numpy().T.astype(np.float64) + offset.numpy())
    is_visible &= pixels[:, 1] >= float(batch.cameras[0, 0, -1]) - 0.5
    is_seen = found.is_seen[0, 0].numpy()
    assert is_seen.sum() > 50
    assert np.mean(is_seen != is_visible) < 1e-3
    both = is_seen & is_visible
    np.testing.assert_allclose(found.u_px[0, 0].numpy()[both], pixels[both, 0], atol=1e-3)
    np.testing.assert_allclose(found.v_px[0, 0].numpy()[both], pixels[both, 1], atol=1e-3)
