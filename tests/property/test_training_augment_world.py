"""Whatever the change of the world: it can be undone, and boxes, points and pixels stay together."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perception.models.boxes import CENTER
from perception.models.tensors import EGO_FIELDS
from perception.training.augment_world import WorldChange, change_world
from perception.training.batch import TrainingBatch
from perception.training.clouds import box_of, compact
from perception.training.collate import collate
from perception.training.patches import corners_of
from perception.training.projection import inverse_affine, project
from tests.model_samples import TINY
from tests.training_scenes import in_network_pixels, make_frame, mounts
from tests.unit.test_model_geometry import CAMERAS

FAR_M = 1e4
"""A range that nothing leaves."""


def make_batch() -> TrainingBatch:
    network = [in_network_pixels(camera) for camera in CAMERAS.values()]
    tops = np.array([top for _, top in network])
    return collate([make_frame(3, cameras=tuple(m for m, _ in network), poses=mounts(4), top_px=tops)], TINY, 200)


BATCH = make_batch()

changes = st.builds(
    lambda mirrored, rotation, scale, x, y: WorldChange(
        is_mirrored=torch.tensor([mirrored]),
        rotation_rad=torch.tensor([rotation]),
        scale=torch.tensor([scale]),
        shift_m=torch.tensor([[x, y]]),
    ),
    st.booleans(),
    st.floats(-math.pi, math.pi),
    st.floats(0.6, 1.6),
    st.floats(-3, 3),
    st.floats(-3, 3),
)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_mirrored_twice_is_as_before() -> None:
    flip = WorldChange(
        is_mirrored=torch.tensor([True]),
        rotation_rad=torch.zeros(1),
        scale=torch.ones(1),
        shift_m=torch.zeros(1, 2),
    )
    twice = change_world(change_world(BATCH, flip, FAR_M), flip, FAR_M)
    for name in ("boxes", "lidar_points", "radar_points", "reference_SE3_camera", "path_m", "ego", "class_index"):
        assert torch.equal(getattr(twice, name), getattr(BATCH, name))


@given(changes)
@settings(max_examples=40, deadline=None)
def test_every_change_can_be_undone(change: WorldChange) -> None:
    moved = change_world(BATCH, change, FAR_M)
    linear, offset = inverse_affine(change.affine())
    back = WorldChange(
        is_mirrored=change.is_mirrored,
        rotation_rad=-change.rotation_rad * change.sign,  # a turn before a mirror is the opposite turn after it
        scale=1 / change.scale,
        shift_m=offset[:, :2],
    )
    assert_close(back.affine()[:, :3, :3], linear, 1e-5)
    again = change_world(moved, back, FAR_M)
    for name, tolerance in (("boxes", 1e-3), ("lidar_points", 1e-3), ("path_m", 1e-3), ("ego", 1e-4)):
        assert_close(getattr(again, name), getattr(BATCH, name), tolerance)
    assert_close(again.reference_SE3_camera, BATCH.reference_SE3_camera, 1e-4)


@given(changes)
@settings(max_examples=40, deadline=None)
def test_points_keep_their_pixels(change: WorldChange) -> None:
    moved = change_world(BATCH, change, FAR_M)
    old, new = project(BATCH, BATCH.lidar_points[:, 0, :, :3]), project(moved, moved.lidar_points[:, 0, :, :3])
    both = old.is_seen & new.is_seen
    assert (old.is_seen != new.is_seen).float().mean() < 1e-3
    assert both.sum() > 300
    assert (torch.stack([old.u_px - new.u_px, old.v_px - new.v_px])[:, both]).abs().max() < 0.02
    assert_close(new.distance_m[both], (old.distance_m * change.scale)[both], 1e-3)


@given(changes)
@settings(max_examples=40, deadline=None)
def test_boxes_move_as_their_corners_do(change: WorldChange) -> None:
    moved = change_world(BATCH, change, FAR_M)
    affine = change.affine()
    expected = corners_of(BATCH.boxes).flatten(1, 2) @ affine[:, :3, :3].transpose(1, 2) + affine[:, None, :3, 3]
    expected = expected.view(1, -1, 8, 3)
    found = corners_of(moved.boxes)
    gap = torch.cdist(found.flatten(0, 1), expected.flatten(0, 1))  # (M, 8, 8): a mirror swaps corners
    assert gap.amin(dim=-1).max() < 2e-3
    assert gap.amin(dim=-2).max() < 2e-3
    owner = box_of(moved.lidar_points[:, 0], moved.boxes, moved.class_index >= 0)
    assert torch.equal(owner, box_of(BATCH.lidar_points[:, 0], BATCH.boxes, BATCH.class_index >= 0))


@given(changes)
@settings(max_examples=20, deadline=None)
def test_only_speeds_and_sides_of_the_ego_change(change: WorldChange) -> None:
    moved = change_world(BATCH, change, FAR_M)
    before, after = (dict(zip(EGO_FIELDS, b.ego[0].tolist(), strict=True)) for b in (BATCH, moved))
    assert math.isclose(after["speed_mps"], before["speed_mps"] * change.scale.item(), rel_tol=1e-5)
    assert math.isclose(after["yaw_rate_radps"], before["yaw_rate_radps"] * change.sign.item(), rel_tol=1e-5)
    assert sum(v for k, v in after.items() if k.startswith("command_")) == 1.0
    assert after["command_right" if change.is_mirrored.item() else "command_left"] == 1.0
    distance = (moved.boxes[:, :, None, CENTER] - moved.boxes[:, None, :, CENTER]).norm(dim=-1)
    original = (BATCH.boxes[:, :, None, CENTER] - BATCH.boxes[:, None, :, CENTER]).norm(dim=-1)
    assert_close(distance, original * change.scale, 1e-3)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_compacting_keeps_the_order_and_the_first(kept: list[bool], length: int) -> None:
    points = torch.arange(1.0, 2 * len(kept) + 1).view(1, -1, 2)
    packed, count = compact(points, torch.tensor([kept], dtype=torch.bool).view(1, -1), length)
    expected = points[0][torch.tensor(kept, dtype=torch.bool)][:length]
    assert count.tolist() == [len(expected)]
    assert packed.shape == (1, length, 2)
    assert torch.equal(packed[0, : len(expected)], expected)
    assert not packed[0, len(expected) :].any()
