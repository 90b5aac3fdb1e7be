"""Frames of different rigs become one batch: what is real is kept as it was, what is padding is marked absent."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.config.schema import LidarConfig, ModelConfig
from perception.core.cameras import Projection
from perception.core.distortion import BrownDistortion, FisheyeDistortion
from perception.training.batch import CAMERA_FIELDS
from perception.training.collate import NO_LIMIT, camera_vector, collate, ray_map
from tests.model_samples import TINY
from tests.training_scenes import in_network_pixels, make_frame, pinhole
from tests.unit.test_model_geometry import CAMERAS


def test_frames_of_different_rigs_are_padded_to_the_most_sensors() -> None:
    frames = [
        make_frame(0, objects=3, lidars=2),
        make_frame(1, cameras=(pinhole(), pinhole(200.0)), objects=7, radar=False),
        make_frame(2, cameras=(), objects=0, lidars=0),
    ]
    batch = collate(frames, TINY, 200)
    assert batch.camera_present.sum(dim=1).tolist() == [4, 2, 0]
    assert batch.lidar_present.sum(dim=1).tolist() == [2, 1, 0]
    assert batch.radar_present.tolist() == [True, False, True]
    assert (batch.class_index >= 0).sum(dim=1).tolist() == [3, 7, 0]
    for i, frame in enumerate(frames):
        cameras, objects = len(frame.cameras), len(frame.class_index)
        np.testing.assert_array_equal(batch.images[i, :cameras].numpy(), frame.images)
        np.testing.assert_array_equal(batch.reference_SE3_camera[i, :cameras].numpy(), frame.reference_SE3_camera)
        np.testing.assert_array_equal(batch.boxes[i, :objects].numpy(), frame.boxes)
        np.testing.assert_array_equal(batch.radar_points[i, : len(frame.radar_points)].numpy(), frame.radar_points)
        sweeps = [batch.lidar_points[i, k, :n].numpy() for k, n in enumerate(frame.lidar_count)]
        np.testing.assert_array_equal(np.concatenate([frame.lidar_points[:0], *sweeps]), frame.lidar_points)
    assert not batch.images[2].any()
    assert torch.isfinite(batch.cameras).all()
    assert torch.equal(batch.image_from_network, torch.eye(2, 3).expand(3, 4, 2, 3))


def test_sweeps_above_the_cap_are_thinned_evenly() -> None:
    config = ModelConfig(lidar=LidarConfig(max_points=100))
    frame = make_frame(0, objects=2, clutter=920)  # 1000 points
    frame.lidar_points[:, 4] = np.arange(1000)
    batch = collate([frame], config, 200)
    assert batch.lidar_count.tolist() == [[100]]
    assert batch.lidar_points[0, 0, :, 4].tolist() == list(range(0, 1000, 10))


def test_of_too_many_boxes_the_nearest_stay() -> None:
    frame = make_frame(0, objects=20)
    batch = collate([frame], TINY, 5)
    distance = np.hypot(frame.boxes[:, 0], frame.boxes[:, 1])
    kept = batch.boxes[0, :, :2].norm(dim=-1).numpy()
    np.testing.assert_allclose(np.sort(kept), np.sort(distance)[:5], rtol=1e-6)


def test_camera_vectors_carry_the_end_of_the_lens_model() -> None:
    limits = {name: camera_vector(camera, 7.0)[CAMERA_FIELDS.index("limit")] for name, camera in CAMERAS.items()}
    assert limits["pinhole"] == NO_LIMIT
    for name in ("brown", "mei"):
        expected = min(NO_LIMIT, BrownDistortion(CAMERAS[name].distortion).limit)
        assert limits[name] == pytest.approx(expected)
    assert limits["kannala_brandt"] == pytest.approx(FisheyeDistortion(CAMERAS["kannala_brandt"].distortion).limit)
    mei = dict(zip(CAMERA_FIELDS, camera_vector(CAMERAS["mei"], 7.0).tolist(), strict=True))
    assert list(Projection)[int(mei["kind"])] is Projection.MEI
    assert (mei["xi"], mei["d0"], mei["d4"], mei["top_px"]) == (pytest.approx(0.9), pytest.approx(-0.1), 0.0, 7.0)


@pytest.mark.parametrize("name", CAMERAS)
def test_ray_maps_hold_every_fourth_ray(name: str) -> None:
    camera, _ = in_network_pixels(CAMERAS[name])
    rays = ray_map(camera)
    assert rays.shape == (TINY.image.height_px // 4, TINY.image.width_px // 4, 3)
    np.testing.assert_allclose(rays[5, 11], camera.rays(np.array([[1.5 + 44.0, 1.5 + 20.0]]))[0], atol=1e-6)
    batch = collate([make_frame(0, cameras=(camera, pinhole()))], TINY, 200)
    np.testing.assert_array_equal(batch.ray_map[0, 0].numpy(), rays)
    assert not np.allclose(batch.ray_map[0, 1].numpy(), rays, atol=1e-3)


def test_a_road_that_is_not_known_is_marked_so() -> None:
    road = np.zeros((TINY.bev_cells, TINY.bev_cells), dtype=np.bool_)
    road[:, 30:34] = True
    batch = collate([make_frame(0), replace(make_frame(1), drivable=road)], TINY, 200)
    assert batch.drivable_known.flatten(1).all(dim=1).tolist() == [False, True]
    assert batch.drivable[1].sum() == road.sum()


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (make_frame(0, config=ModelConfig(image=TINY.image.model_copy(update={"width_px": 320}))), "images"),
        (make_frame(0, config=ModelConfig(path_steps=4)), "path"),
        (replace(make_frame(0), drivable=np.zeros((8, 8), dtype=np.bool_)), "drivable"),
    ],
)
def test_a_frame_of_another_model_is_named(frame: object, field: str) -> None:
    with pytest.raises(ValueError, match=f"made-up: .*{field}"):
        collate([frame], TINY, 200)  # type: ignore[list-item]


def test_no_frames_make_no_batch() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        collate([], TINY, 200)
