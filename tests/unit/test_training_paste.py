"""A pasted object comes with its points, returns, picture and label, only where there is room, or not at all."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from perception.config.schema import LidarConfig, ModelConfig
from perception.config.training import AugmentConfig
from perception.core.geometry import se3_from_yaw
from perception.models.boxes import CENTER, LOG_SIZE, encode_boxes
from perception.training.augment import augment
from perception.training.batch import TrainingBatch
from perception.training.clouds import box_of, is_real
from perception.training.collate import collate
from perception.training.frames import TrainingFrame
from perception.training.paste import PATH_MARGIN_M, paste
from perception.training.patches import Rectangles, corners_of
from perception.training.projection import project
from tests.model_samples import TINY
from tests.training_scenes import POINTS_A_BOX, make_frame, mounts

AT = (18.0, -7.0)
"""Beside the path, in the middle of what the first camera sees."""


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def frame_with(seed: int, places: list[tuple[float, float]], size_m: float = 2.0, points: int = 40) -> TrainingFrame:
    """A frame with cubes that stand at `places`, with `points` lidar points in each and a radar return."""
    rng = np.random.default_rng(seed)
    n = len(places)
    center = np.array([(*place, size_m / 2) for place in places]).reshape(n, 3)
    inside = center[:, None] + rng.uniform(-0.45, 0.45, (n, points, 3)) * size_m
    sweep = np.zeros((n * points, 5), dtype=np.float32)
    sweep[:, :3], sweep[:, 3] = inside.reshape(-1, 3), seed / 10
    returns = np.zeros((n, 7), dtype=np.float32)
    returns[:, :3], returns[:, 3] = center, 10.0 + seed
    return replace(
        make_frame(seed, objects=0, poses=mounts(4)),
        lidar_points=sweep,
        lidar_count=np.array([len(sweep)]),
        radar_points=returns,
        class_index=np.full(n, seed, dtype=np.int64),
        attribute_index=np.full(n, 2, dtype=np.int64),
        visible_share=np.ones(n, dtype=np.float32),
        boxes=encode_boxes(center, np.full((n, 3), size_m), np.zeros(n), np.tile([3.0, 1.0], (n, 1))),
    )


def pasted(receiver: TrainingFrame, donor: TrainingFrame, count: int = 4) -> tuple[TrainingBatch, TrainingBatch]:
    """A batch of both, and the same with what the first takes from the second (and the other way round)."""
    batch = collate([receiver, donor], TINY, 200)
    return batch, paste(batch, count, TINY, seeded())


def new_labels(before: TrainingBatch, after: TrainingBatch) -> Tensor:
    """True for labels (B, J) that were pasted."""
    return after.class_index[:, before.class_index.shape[1] :] >= 0


def test_an_object_comes_with_all_that_sensors_say_of_it() -> None:
    batch, after = pasted(frame_with(1, []), frame_with(2, [AT]))
    assert new_labels(batch, after).tolist() == [[True], [False]]
    assert after.class_index[0].tolist() == [-1, 2]
    assert after.attribute_index[0].tolist() == [-1, 2]
    torch.testing.assert_close(after.boxes[0, 1], batch.boxes[1, 0])
    assert after.lidar_count.tolist() == [[40], [40]]
    torch.testing.assert_close(after.lidar_points[0, 0, :40], batch.lidar_points[1, 0, :40])
    assert after.radar_count.tolist() == [1, 1]
    torch.testing.assert_close(after.radar_points[0, 0], batch.radar_points[1, 0])


def test_the_picture_is_copied_where_the_box_is_seen() -> None:
    batch, after = pasted(frame_with(1, []), frame_with(2, [AT]))
    seen = Rectangles.of(batch, after.boxes)
    low, high = seen.low_px[0, 0, 1].ceil().int().tolist(), seen.high_px[0, 0, 1].floor().int().tolist()
    inside = (0, 0, slice(None), slice(low[1], high[1] + 1), slice(low[0], high[0] + 1))
    assert (high[0] - low[0]) * (high[1] - low[1]) > 100
    assert torch.equal(after.images[inside], batch.images[1][inside[1:]])
    is_other = (after.images != batch.images).any(dim=2)  # (B, N, H, W)
    assert not is_other[0, 1:].any()
    assert not is_other[1].any()
    is_other[0, 0, low[1] : high[1] + 1, low[0] : high[0] + 1] = False
    assert not is_other.any()


def test_a_picture_follows_the_object_between_cameras_that_differ() -> None:
    receiver, donor = frame_with(1, []), frame_with(2, [AT])
    poses = receiver.reference_SE3_camera.copy()
    poses[:, 0, 3] -= 1.0  # the receiver was a metre behind when it looked
    plain = np.zeros_like(donor.images)
    plain[:, 0] = np.arange(plain.shape[-1]) // 2  # red tells the column
    batch, after = pasted(replace(receiver, reference_SE3_camera=poses), replace(donor, images=plain))
    center = after.boxes[:1, 1:, CENTER]
    here = project(batch.part(slice(0, 1)), center)
    there = project(batch.part(slice(1, 2)), center)
    u, v = round(here.u_px[0, 0, 0].item()), round(here.v_px[0, 0, 0].item())
    assert abs(u - there.u_px[0, 0, 0].item()) > 1.5
    assert abs(after.images[0, 0, 0, v, u].item() * 2 - there.u_px[0, 0, 0].item()) <= 3
    assert after.images[0, 0, 1, v, u] == 0


@pytest.mark.parametrize(
    ("receiver", "donor"),
    [
        pytest.param(frame_with(1, [(17.0, -6.5)]), frame_with(2, [AT]), id="a labelled object is there"),
        pytest.param(frame_with(1, [(9.0, -3.5)]), frame_with(2, [AT]), id="hidden in the receiver"),
        pytest.param(frame_with(1, []), frame_with(2, [AT], points=3), id="too few points"),
        pytest.param(frame_with(1, []), frame_with(2, [(8.0, 0.0)]), id="on the path"),
        pytest.param(frame_with(1, []), frame_with(2, [(10.0, -9.0)]), id="cut by the border of an image"),
        pytest.param(replace(frame_with(1, []), radar_age_s=None), frame_with(2, [AT]), id="no radar there"),
    ],
)
def test_there_is_no_place_for_it(receiver: TrainingFrame, donor: TrainingFrame) -> None:
    batch, after = pasted(receiver, donor, 1)
    assert not new_labels(batch, after)[0].any()
    assert after.lidar_count[0] == batch.lidar_count[0]
    assert torch.equal(after.images[0], batch.images[0])


def test_an_object_hidden_in_its_own_frame_is_left_there() -> None:
    batch, after = pasted(frame_with(1, []), frame_with(2, [AT, (9.0, -3.5)]))
    assert new_labels(batch, after)[0].sum() == 1
    found = after.boxes[0, batch.boxes.shape[1] :][new_labels(batch, after)[0]]
    torch.testing.assert_close(found[0, :2], torch.tensor([9.0, -3.5]))


def test_an_object_cut_off_in_its_own_frame_alone_is_left_there() -> None:
    receiver = frame_with(1, [])
    poses = receiver.reference_SE3_camera.copy()
    poses[0] = se3_from_yaw(0.5) @ poses[0]  # sees nothing of it
    batch, after = pasted(replace(receiver, reference_SE3_camera=poses), frame_with(2, [(10.0, -9.0)]))
    assert not new_labels(batch, after).any()


def test_of_pasted_objects_that_hide_each_other_only_here_the_nearer_comes() -> None:
    receiver, donor = frame_with(1, []), frame_with(2, [(9.0, -3.5), (18.0, -13.0)])
    batch, after = pasted(receiver, donor)
    assert new_labels(batch, after)[0].sum() == 2
    poses = receiver.reference_SE3_camera.copy()
    poses[0, 1, 3] += 1.0
    batch, after = pasted(replace(receiver, reference_SE3_camera=poses), donor)
    found = after.boxes[0, batch.boxes.shape[1] :][new_labels(batch, after)[0]]
    torch.testing.assert_close(found[:, :2], torch.tensor([[9.0, -3.5]]))


def test_points_in_the_way_keep_a_place_free_of_pasting() -> None:
    wall, bare = frame_with(1, [AT]), make_frame(1, objects=0, poses=mounts(4))
    wall = replace(bare, lidar_points=wall.lidar_points, lidar_count=wall.lidar_count, radar_points=wall.radar_points)
    batch, after = pasted(wall, frame_with(2, [AT]))
    assert not new_labels(batch, after).any()


@pytest.mark.parametrize("seed", range(4))
def test_pasted_objects_keep_their_distance(seed: int) -> None:
    batch = collate([make_frame(10 * seed + i, objects=14, clutter=50) for i in range(6)], TINY, 200)
    after = paste(batch, 10, TINY, seeded(seed))
    before = batch.class_index.shape[1]
    for sample in range(6):
        real = after.class_index[sample] >= 0
        boxes, is_new = after.boxes[sample][real], (torch.arange(len(real)) >= before)[real]
        radius = boxes[:, LOG_SIZE][:, :2].exp().norm(dim=-1) / 2
        gap = torch.cdist(boxes[:, :2], boxes[:, :2]) - radius[:, None] - radius
        gap.fill_diagonal_(torch.inf)
        assert (gap[is_new][:, ~is_new] > 0).all()
        way = torch.cdist(boxes[is_new][:, :2], batch.path_m[sample]) - radius[is_new, None]
        assert (way > PATH_MARGIN_M).all()
        real_points = is_real(after.lidar_points[sample], after.lidar_count[sample])[0]
        owner = box_of(
            after.lidar_points[sample, :, real_points], boxes[None], torch.ones(1, len(boxes), dtype=torch.bool)
        )
        assert (torch.bincount(owner[0] + 1, minlength=len(boxes) + 1)[1:] >= POINTS_A_BOX - 1).all()
    assert new_labels(batch, after).sum() > 0


def test_above_the_cap_the_objects_points_stay() -> None:
    config = ModelConfig(lidar=LidarConfig(max_points=60))
    receiver = frame_with(1, [(-15.0, 9.0)], points=60)
    batch = collate([receiver, frame_with(2, [AT])], config, 200)
    after = paste(batch, 4, config, seeded())
    assert after.lidar_points.shape[2] == 60
    assert after.lidar_count[0].tolist() == [60]
    assert (after.lidar_points[0, 0, :, 3] == batch.lidar_points[1, 0, 0, 3]).sum() == 40


def test_pasting_fades_out() -> None:
    batch = collate([make_frame(i, objects=14, clutter=50) for i in range(6)], TINY, 200)
    config = AugmentConfig(paste=10, paste_until=0.8)
    widths = [augment(batch, config, TINY, seeded(), at).class_index.shape[1] for at in (0.0, 0.4, 0.79, 0.8, 1.0)]
    assert widths == [24, 19, 15, 14, 14]


@pytest.mark.parametrize("frames", [[make_frame(0)], [make_frame(0, objects=0), make_frame(1, objects=0)]])
def test_nothing_to_paste_changes_nothing(frames: list[TrainingFrame]) -> None:
    batch = collate(frames, TINY, 200)
    after = paste(batch, 4, TINY, seeded())
    assert all(getattr(after, field.name) is getattr(batch, field.name) for field in fields(batch))


def test_corners_span_their_box() -> None:
    boxes = collate([make_frame(0)], TINY, 200).boxes
    corners = corners_of(boxes)
    torch.testing.assert_close(corners.mean(dim=2), boxes[..., CENTER])
    diagonal = boxes[..., LOG_SIZE].exp().norm(dim=-1)
    torch.testing.assert_close((corners[:, :, 0] - corners[:, :, 7]).norm(dim=-1), diagonal)
    inside = boxes[..., None, CENTER] + 0.99 * (corners - boxes[..., None, CENTER])
    owner = box_of(inside.flatten(1, 2), boxes, torch.ones(boxes.shape[:2], dtype=torch.bool))
    assert torch.equal(owner[0], torch.arange(boxes.shape[1]).repeat_interleave(8))
