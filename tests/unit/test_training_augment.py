"""Augmentation keeps sensors and labels together: what lay on a pixel, in a box or on the road still does."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from perception.config.training import AugmentConfig
from perception.models.blocks import cell_centers
from perception.models.boxes import CENTER, VELOCITY
from perception.models.tensors import EGO_FIELDS
from perception.training.augment import augment
from perception.training.augment_images import augment_images
from perception.training.augment_points import augment_points
from perception.training.augment_world import WorldChange, change_world, draw_change
from perception.training.batch import TrainingBatch
from perception.training.clouds import box_of, is_real
from perception.training.collate import collate
from perception.training.projection import project
from tests.model_samples import TINY
from tests.training_runs import PLAIN
from tests.training_scenes import POINTS_A_BOX, in_network_pixels, make_frame, mounts
from tests.unit.test_model_geometry import CAMERAS

OBJECTS = 8
CPU = torch.device("cpu")


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(samples: int = 4) -> TrainingBatch:
    """Frames with a camera of each lens model; the last column of lidar points is their number, to know them again."""
    network = [in_network_pixels(camera) for camera in CAMERAS.values()]
    tops = np.array([top for _, top in network])
    frames = []
    for seed in range(samples):
        frame = make_frame(seed, cameras=tuple(m for m, _ in network), poses=mounts(4), top_px=tops, objects=OBJECTS)
        frame.lidar_points[:, 4] = np.arange(len(frame.lidar_points))
        frames.append(frame)
    return collate(frames, TINY, 200)


def change(mirrored: bool = False, rotation: float = 0.0, scale: float = 1.0, shift: float = 0.0) -> WorldChange:
    return WorldChange(
        is_mirrored=torch.tensor([mirrored]),
        rotation_rad=torch.tensor([rotation]),
        scale=torch.tensor([scale]),
        shift_m=torch.tensor([[shift, -shift]]),
    )


def moved(batch: TrainingBatch, pixels: Tensor) -> Tensor:
    """Where `image_from_network` puts pixels (B, N, M, 2) of the camera models."""
    step = batch.image_from_network
    return pixels @ step[..., :2].transpose(-1, -2) + step[:, :, None, :, 2]


def test_nothing_asked_for_leaves_a_batch_as_it_was() -> None:
    batch = make_batch(2)
    same = augment(batch, PLAIN, TINY, seeded(), 0.0)
    for field in fields(batch):
        before, after = getattr(batch, field.name), getattr(same, field.name)
        torch.testing.assert_close(after, before, equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_centre_lands_on_the_same_picture(seed: int) -> None:
    batch = make_batch()
    config = AugmentConfig(color=0, image_scale=(0.8, 1.4), image_flip=0.3, rotation_deg=30, scale=0.1)
    after = augment(batch, config, TINY, seeded(seed), 0.0)
    is_kept = after.class_index >= 0
    old, new = project(batch, batch.boxes[..., CENTER]), project(after, after.boxes[..., CENTER])
    expected = moved(after, torch.stack([old.u_px, old.v_px], dim=-1))
    found = torch.stack([new.u_px, new.v_px], dim=-1)
    both = old.is_seen & new.is_seen & is_kept[:, None]
    assert both.sum() > 20
    torch.testing.assert_close(found[both], expected[both], rtol=0, atol=5e-3)
    # What is gone went over the border of its image.
    gone = expected[old.is_seen & ~new.is_seen & is_kept[:, None]]
    size = torch.tensor([TINY.image.width_px, TINY.image.height_px])
    assert ((gone < -0.45) | (gone > size - 0.55)).any(dim=-1).all()
    assert (after.image_from_network[:, :, 0, 0] < 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_mark_on_an_image_moves_as_its_pixel_does(seed: int) -> None:
    batch = make_batch(2)
    u, v = torch.meshgrid(torch.arange(TINY.image.width_px), torch.arange(TINY.image.height_px), indexing="xy")
    at = torch.tensor([190.0, 70.0])
    blob = 255 * torch.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / (2 * 3.0**2))
    marked = replace(batch, images=blob.to(torch.uint8).expand(batch.images.shape))
    config = AugmentConfig(color=0, image_scale=(0.9, 1.2), image_flip=0.5)
    after = augment_images(marked, config, torch.tensor([True, False]), seeded(seed))
    weight = after.images[:, :, 0]  # (B, N, H, W)
    found = torch.stack([(weight * axis).sum(dim=(-2, -1)) / weight.sum(dim=(-2, -1)) for axis in (u, v)], dim=-1)
    torch.testing.assert_close(found, moved(after, at.expand(2, 4, 1, 2))[:, :, 0], rtol=0, atol=0.02)


def test_points_stay_in_their_boxes() -> None:
    batch = make_batch()
    config = AugmentConfig(color=0, rotation_deg=40, jitter_m=0, drop_points=0)
    after = augment(batch, config, TINY, seeded(1), 0.0)
    owner = box_of(after.lidar_points[:, 0], after.boxes, after.class_index >= 0)
    first = box_of(batch.lidar_points[:, 0], batch.boxes, batch.class_index >= 0)
    assert ((first >= 0).sum(dim=1) == OBJECTS * POINTS_A_BOX).all()
    for sample in range(4):
        real = is_real(after.lidar_points[sample], after.lidar_count[sample])[0]
        number = after.lidar_points[sample, 0, real, 4].long()
        box = first[sample, number]
        expected = torch.where((box >= 0) & (after.class_index[sample, box.clamp(min=0)] >= 0), box, -1)
        # A point of a box that left may still be in the range; none changes its box.
        assert torch.equal(owner[sample, real], expected)
    assert (after.class_index >= 0).any(dim=1).all()


def test_only_a_world_that_is_not_turned_teaches_paths() -> None:
    batch = make_batch(1)
    assert batch.path_known.any(dim=1).all()
    turned = change_world(batch, change(mirrored=True, rotation=0.5, scale=1.1), TINY.range_m)
    assert not turned.path_known.any()
    straight = change_world(batch, change(mirrored=True, rotation=0.0, scale=1.1), TINY.range_m)
    assert torch.equal(straight.path_known, batch.path_known)


def test_motion_turns_with_the_world() -> None:
    batch = make_batch(1)
    after = change_world(batch, change(mirrored=True, rotation=0.5, scale=1.1), TINY.range_m)
    heading = torch.atan2(batch.boxes[..., 6], batch.boxes[..., 7])
    turned = torch.atan2(after.boxes[..., 6], after.boxes[..., 7])
    along = torch.atan2(batch.boxes[..., 9], batch.boxes[..., 8])
    now_along = torch.atan2(after.boxes[..., 9], after.boxes[..., 8])
    for old, new in ((heading, turned), (along, now_along)):
        torch.testing.assert_close(torch.exp(1j * new), torch.exp(1j * (0.5 - old)), rtol=0, atol=1e-5)
    speed, now = batch.boxes[..., VELOCITY].norm(dim=-1), after.boxes[..., VELOCITY].norm(dim=-1)
    torch.testing.assert_close(now, speed * 1.1)
    # A radar return of an object still has its velocity, and still lies at its centre.
    torch.testing.assert_close(after.radar_points[..., 4:6], after.boxes[..., VELOCITY], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.radar_points[..., :3], after.boxes[..., CENTER], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.target_speed_mps, batch.target_speed_mps * 1.1)


def test_the_way_ahead_bends_with_its_world() -> None:
    batch = make_batch(1)
    after = change_world(batch, change(mirrored=True, rotation=0.3, scale=1.05, shift=0.4), TINY.range_m)
    x, y = batch.path_m.unbind(dim=-1)
    cosine, sine = 1.05 * math.cos(0.3), 1.05 * math.sin(0.3)
    expected = torch.stack([cosine * x + sine * y + 0.4, sine * x - cosine * y - 0.4], dim=-1)
    torch.testing.assert_close(after.path_m, expected, rtol=1e-5, atol=1e-5)
    ego = dict(zip(EGO_FIELDS, after.ego[0].tolist(), strict=True))
    assert ego["speed_mps"] == pytest.approx(8.0 * 1.05)
    assert ego["speed_limit_mps"] == pytest.approx(13.9 * 1.05)
    assert ego["route_distance_m"] == pytest.approx(25.0 * 1.05)
    assert ego["route_target_x_m"] == pytest.approx(cosine * 24.0 + sine * 3.0 + 0.4)
    assert ego["route_target_y_m"] == pytest.approx(sine * 24.0 - cosine * 3.0 - 0.4)
    assert ego["yaw_rate_radps"] == pytest.approx(-0.1)
    assert (ego["command_left"], ego["command_right"]) == (0.0, 1.0)
    assert (ego["speed_limit_is_known"], ego["signal_green"]) == (1.0, 1.0)


def test_velocities_that_are_not_known_stay_so() -> None:
    batch = make_batch(1)
    boxes = batch.boxes.clone()
    boxes[:, 0, 8:] = torch.nan
    unknown = replace(batch, boxes=boxes, target_speed_mps=torch.tensor([torch.nan]))
    after = change_world(unknown, change(rotation=0.2), TINY.range_m)
    assert after.boxes[0, 0, 8:].isnan().all()
    assert after.boxes[..., :8].isfinite().all()
    assert after.boxes[:, 1:].isfinite().all()
    assert after.target_speed_mps.isnan().all()


def road(points: Tensor) -> Tensor:
    """True on a winding road of 12 m and a yard, for points (..., 2)."""
    x, y = points.unbind(dim=-1)
    return ((y - 10 * torch.sin(x / 15)).abs() < 6) | ((x + 20) ** 2 + (y - 25) ** 2 < 12**2)


@pytest.mark.parametrize(
    "case", [change(rotation=0.3), change(mirrored=True, rotation=-0.35, scale=1.05, shift=0.5), change(scale=0.95)]
)
def test_a_road_is_drawn_as_if_it_had_been_measured_there(case: WorldChange) -> None:
    centers = cell_centers(TINY.bev_cells) * TINY.range_m
    shape = (1, TINY.bev_cells, TINY.bev_cells)
    known = torch.ones(shape, dtype=torch.bool)
    batch = replace(make_batch(1), drivable=road(centers).float().view(shape), drivable_known=known)
    after = change_world(batch, case, TINY.range_m)
    back = torch.linalg.inv(case.affine()[0].double())
    before = centers.double() @ back[:2, :2].T + back[:2, 3]
    expected = road(before).view(shape)
    was_inside = (before.abs() < TINY.range_m).all(dim=-1).view(shape)
    assert (after.drivable_known == was_inside).float().mean() > 0.98
    # Away from kerbs (0.8 of a cell) the road is where it is; on them a cell is partly road.
    cell_m = 2 * TINY.range_m / TINY.bev_cells
    around = torch.cartesian_prod(*[torch.tensor([-0.8, 0.0, 0.8], dtype=torch.float64) * cell_m] * 2)
    inner = torch.stack([road(before + step).view(shape) == expected for step in around]).all(dim=0)
    asked = inner & after.drivable_known
    assert asked.float().mean() > 0.5
    assert torch.equal(after.drivable[asked] > 0.5, expected[asked])
    assert after.drivable_known.any()


def test_a_road_that_is_not_known_stays_unknown() -> None:
    after = change_world(make_batch(1), change(rotation=0.3), TINY.range_m)
    assert not after.drivable_known.any()


def test_what_leaves_the_square_is_no_label() -> None:
    batch = make_batch(1)
    boxes = batch.boxes.clone()
    boxes[0, 0, :2], boxes[0, 1, :2] = torch.tensor([50.0, 50.0]), torch.tensor([50.0, 0.0])
    points = batch.lidar_points.clone()
    points[0, 0, 0, :2] = torch.tensor([50.0, -50.0])
    turned = change_world(replace(batch, boxes=boxes, lidar_points=points), change(rotation=math.pi / 4), TINY.range_m)
    assert turned.class_index[0, 0] == -1
    assert turned.attribute_index[0, 0] == -1
    assert not turned.boxes[0, 0].any()
    assert turned.class_index[0, 1] == batch.class_index[0, 1]
    cropped = augment_points(turned, PLAIN, TINY, seeded())
    assert cropped.lidar_count.item() < batch.lidar_count.item()
    real = cropped.lidar_points[0, 0, : cropped.lidar_count.item()]
    assert real[:, :2].abs().max() < TINY.range_m
    assert 0.0 not in real[:, 4].tolist()
    assert not cropped.lidar_points[0, 0, cropped.lidar_count.item() :].any()


def test_draws_keep_to_what_is_allowed() -> None:
    config = AugmentConfig(rotation=0.7, rotation_deg=20, scale=0.1, translation_m=0.7, flip=0.3)
    drawn = draw_change(4000, config, seeded(), CPU)
    assert abs(drawn.is_mirrored.float().mean().item() - 0.3) < 0.03
    assert abs((drawn.rotation_rad != 0).float().mean().item() - 0.7) < 0.03
    for values, bound in ((drawn.rotation_rad, math.radians(20)), (drawn.scale - 1, 0.1), (drawn.shift_m, 0.7)):
        assert 0.98 * bound < values.abs().max() <= bound * 1.0001
        assert abs(values.mean().item()) < 0.05 * bound


def test_points_are_thinned_and_their_intensity_shifted() -> None:
    batch = make_batch()
    config = PLAIN.model_copy(update={"drop_points": 0.4, "intensity": 0.2, "jitter_m": 0.05})
    after = augment_points(batch, config, TINY, seeded())
    share = after.lidar_count[:, 0] / batch.lidar_count[:, 0]
    assert (share > 0.55).all()
    assert share.std() > 0.02  # each sweep loses its own share
    for sample in range(4):
        kept = after.lidar_points[sample, 0, : after.lidar_count[sample].item()]
        was = batch.lidar_points[sample, 0, kept[:, 4].long()]
        assert kept[:, 3].min() >= 0
        assert kept[:, 3].max() <= 1
        assert not torch.allclose(kept[:, 3], was[:, 3], atol=1e-3)
        order = was[:, 3].argsort()
        assert (kept[order, 3].diff() >= 0).all()  # a gain and an offset: what was brighter is not darker now
        assert (kept[:, :3] - was[:, :3]).std().item() == pytest.approx(0.05, rel=0.15)


def test_colours_change_but_grey_stays_grey_and_padding_black() -> None:
    batch = make_batch(2)
    grey = torch.randint(60, 200, (2, 4, 1, *batch.images.shape[-2:]), generator=seeded(), dtype=torch.uint8)
    top = batch.cameras.clone()
    top[..., -1] = 10.0
    batch = replace(batch, images=grey.expand(-1, -1, 3, -1, -1).contiguous(), cameras=top)
    after = augment_images(batch, PLAIN.model_copy(update={"color": 0.4}), torch.tensor([False, False]), seeded())
    red, green, blue = after.images.unbind(dim=2)
    torch.testing.assert_close(red, green, rtol=0, atol=0.01)
    torch.testing.assert_close(green, blue, rtol=0, atol=0.01)
    assert not after.images[..., :10, :].any()
    assert after.images.min() >= 0
    assert after.images.max() <= 255
    change_px = (after.images - batch.images)[..., 10:, :].mean(dim=(-3, -2, -1))  # (B, N)
    assert change_px.abs().mean() > 5
    assert change_px.std() > 5  # each image by its own draw


def test_pictures_beyond_a_border_are_black() -> None:
    batch = replace(make_batch(1), images=torch.full_like(make_batch(1).images, 200))
    after = augment_images(batch, PLAIN.model_copy(update={"image_scale": (0.5, 0.5)}), torch.tensor([False]), seeded())
    share = (after.images > 100).float().mean(dim=(-3, -2, -1))
    torch.testing.assert_close(share, torch.full_like(share, 0.25), rtol=0, atol=0.02)


def test_a_seed_makes_the_same_batch_again() -> None:
    batch, config = make_batch(2), AugmentConfig(paste=4)
    first, again, other = (augment(batch, config, TINY, seeded(seed), 0.0) for seed in (5, 5, 6))
    for field in fields(batch):
        torch.testing.assert_close(
            getattr(first, field.name), getattr(again, field.name), rtol=0, atol=0, equal_nan=True
        )
    assert not torch.equal(first.boxes, other.boxes)


def test_batches_without_cameras_lidars_or_objects_pass() -> None:
    bare = collate([make_frame(i, cameras=(), lidars=0, objects=0) for i in range(2)], TINY, 200)
    after = augment(bare, AugmentConfig(paste=4), TINY, seeded(), 0.0)
    assert after.images.shape == bare.images.shape
    assert after.lidar_points.shape == bare.lidar_points.shape
