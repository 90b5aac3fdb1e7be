"""Samples lose sensors as often as they should, in the ways they should, and never all of them."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Generator

from perception.config.schema import ImageConfig, ModelConfig
from perception.config.training import ModalityDropoutConfig
from perception.core.rig import Modality
from perception.models.boxes import VELOCITY
from perception.models.tensors import EGO_FIELDS
from perception.training.batch import TrainingBatch
from perception.training.clouds import box_of, is_real
from perception.training.collate import collate
from perception.training.dropout import CUT_RAD, STALE_S, drop_modalities, only_modalities
from tests.training_scenes import make_frame, pinhole

SMALL = ModelConfig(image=ImageConfig(height_px=16, width_px=32))
ALWAYS_DEGRADE = ModalityDropoutConfig(start=0, subset=0, degrade=1)
ALWAYS_SUBSET = ModalityDropoutConfig(start=0, subset=1, degrade=0)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def copies(count: int, *, cameras: int = 4, lidars: int = 1, radar: bool = True) -> TrainingBatch:
    """The same frame so many times, numbered in the last column of its points."""
    frame = make_frame(
        1, cameras=(pinhole(config=SMALL),) * cameras, lidars=lidars, radar=radar, clutter=80, objects=6, config=SMALL
    )
    frame.lidar_points[:, 4] = 0.0
    one = collate([frame], SMALL, 200)
    many = {field.name: getattr(one, field.name) for field in fields(one)}
    return replace(one, **{name: x.expand(count, *x.shape[1:]).clone() for name, x in many.items()})


def kinds(batch: TrainingBatch) -> torch.Tensor:
    """(B, 3), True for camera, lidar and radar that a sample still has."""
    return torch.stack([batch.camera_present.any(1), batch.lidar_present.any(1), batch.radar_present], dim=1)


def test_shares_are_those_asked_for() -> None:
    batch = copies(3000)
    after = drop_modalities(batch, ModalityDropoutConfig(start=0.1, subset=0.4, degrade=0.1), seeded(), 0.5)
    has = kinds(after)
    assert abs((~has).any(dim=1).float().mean().item() - 0.4) < 0.03
    whole = has.all(dim=1)
    is_degraded = whole & (
        (after.camera_present.sum(dim=1) < 4)
        | (after.lidar_count[:, 0] < batch.lidar_count[:, 0])
        | (after.lidar_age_s[:, 0] > batch.lidar_age_s[:, 0])
        | (after.radar_age_s > batch.radar_age_s)
    )
    assert abs(is_degraded.float().mean().item() - 0.1) < 0.02


def test_the_routes_target_is_forgotten_as_often_as_asked_for() -> None:
    batch = copies(2000)
    place = [EGO_FIELDS.index(f"route_target_{name}") for name in ("x_m", "y_m", "is_known")]
    batch.ego[:, place] = torch.tensor([20.0, 3.0, 1.0])
    after = drop_modalities(batch, ModalityDropoutConfig(start=0, route_target=0.3), seeded(), 0.5)
    told = after.ego[:, place]
    is_told = told[:, 2] == 1.0
    assert abs(is_told.float().mean().item() - 0.7) < 0.03
    assert not told[~is_told].any()
    others = [at for at in range(len(EGO_FIELDS)) if at not in place]
    torch.testing.assert_close(after.ego[:, others], batch.ego[:, others])
    torch.testing.assert_close(told[is_told], batch.ego[is_told][:, place])


def test_every_proper_subset_is_drawn_alike() -> None:
    has = kinds(drop_modalities(copies(3000), ALWAYS_SUBSET, seeded(), 0.5))
    number = (has * torch.tensor([1, 2, 4])).sum(dim=1)
    share = torch.bincount(number, minlength=8) / 3000
    assert share[0] == share[7] == 0
    torch.testing.assert_close(share[1:7], torch.full((6,), 1 / 6), rtol=0, atol=0.03)


@pytest.mark.parametrize("asked", [0.0, 0.4, 1.0])
def test_cameras_alone_are_left_as_often_as_asked_for(asked: float) -> None:
    config = ModalityDropoutConfig(start=0, subset=1, camera_alone=asked, degrade=0)
    has = kinds(drop_modalities(copies(3000), config, seeded(), 0.5))
    number = (has * torch.tensor([1, 2, 4])).sum(dim=1)
    share = torch.bincount(number, minlength=8) / 3000
    assert share[0] == share[7] == 0
    torch.testing.assert_close(share[1:2], torch.tensor([asked]), rtol=0, atol=0.03)
    torch.testing.assert_close(share[2:7], torch.full((5,), (1 - asked) / 5), rtol=0, atol=0.03)


def test_nothing_is_dropped_before_the_start() -> None:
    batch = copies(50)
    config = ModalityDropoutConfig(start=0.2, subset=0.6, degrade=0.4)
    assert drop_modalities(batch, config, seeded(), 0.19) is batch
    assert not kinds(drop_modalities(batch, config, seeded(), 0.2)).all()


@pytest.mark.parametrize("cameras", [0, 1])
@pytest.mark.parametrize("lidars", [0, 1])
@pytest.mark.parametrize("radar", [False, True])
def test_a_sample_never_loses_everything(cameras: int, lidars: int, radar: bool) -> None:
    batch = copies(200, cameras=cameras, lidars=lidars, radar=radar)
    if cameras + lidars + radar == 0:
        return
    for config in (ALWAYS_SUBSET, ALWAYS_DEGRADE):
        after = drop_modalities(batch, config, seeded(), 1.0)
        assert kinds(after).any(dim=1).all()
        assert not (kinds(after) & ~kinds(batch)).any()


def test_a_degraded_sample_loses_one_camera_a_sector_or_freshness() -> None:
    batch = copies(900)
    after = drop_modalities(batch, ALWAYS_DEGRADE, seeded(), 0.5)
    lost = 4 - after.camera_present.sum(dim=1)
    is_cut = after.lidar_count[:, 0] < batch.lidar_count[:, 0]
    is_stale = (after.lidar_age_s[:, 0] > batch.lidar_age_s[:, 0]) | (after.radar_age_s > batch.radar_age_s)
    ways = torch.stack([lost == 1, is_cut, is_stale])
    assert (ways.sum(dim=0) <= 1).all()  # a sector without points may be cut unseen
    assert lost.max() == 1
    torch.testing.assert_close(ways.float().mean(dim=1), torch.full((3,), 1 / 3), rtol=0, atol=0.06)
    per_camera = (~after.camera_present).sum(dim=0) / (lost == 1).sum()
    torch.testing.assert_close(per_camera, torch.full((4,), 0.25), rtol=0, atol=0.1)


def test_a_cut_view_lacks_one_sector_and_nothing_else() -> None:
    batch = copies(300)
    after = drop_modalities(batch, ALWAYS_DEGRADE, seeded(3), 0.5)
    cut = (after.lidar_count[:, 0] < batch.lidar_count[:, 0]).nonzero()[:, 0].tolist()
    assert len(cut) > 50
    every = batch.lidar_points[0, 0]
    for sample in cut:
        kept = after.lidar_points[sample, 0, : after.lidar_count[sample].item()]
        is_gone = ~torch.isin(every[:, 3], kept[:, 3])  # no two have the same intensity
        assert is_gone.sum() + len(kept) == len(every)
        azimuth = torch.atan2(every[:, 1], every[:, 0])
        gone, left = azimuth[is_gone].sort().values, azimuth[~is_gone]
        # The widest hole between what is gone lies outside the sector: what is left is in it.
        holes = torch.cat([gone[1:], gone[:1] + 2 * torch.pi]) - gone
        start, end = gone.roll(-1)[holes.argmax()], gone[holes.argmax()]
        width = torch.remainder(end - start, 2 * torch.pi)
        assert width <= CUT_RAD[1] + 1e-5
        assert not (torch.remainder(left - start, 2 * torch.pi) < width - 1e-5).any()


def test_a_stale_sweep_shows_moving_things_where_they_were() -> None:
    batch = copies(300)
    after = drop_modalities(batch, ALWAYS_DEGRADE, seeded(), 0.5)
    age = after.lidar_age_s[:, 0] - batch.lidar_age_s[:, 0]
    stale = (age > 0).nonzero()[:, 0]
    assert len(stale) > 20
    assert age[stale].min() >= STALE_S[0]
    assert age[stale].max() <= STALE_S[1]
    owner = box_of(batch.lidar_points[:1, 0], batch.boxes[:1], batch.class_index[:1] >= 0)[0]
    real = is_real(batch.lidar_points[0], batch.lidar_count[0])[0]
    velocity = batch.boxes[0, owner.clamp(min=0)][:, VELOCITY] * (owner >= 0)[:, None]
    for sample in stale.tolist():
        way = batch.lidar_points[sample, 0, real, :2] - after.lidar_points[sample, 0, real, :2]
        torch.testing.assert_close(way, velocity[real] * age[sample], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(after.lidar_points[sample, 0, real, 4], -age[sample].expand(int(real.sum())))
        assert torch.equal(after.lidar_points[sample, 0, real, 2:4], batch.lidar_points[sample, 0, real, 2:4])
        assert torch.equal(after.radar_points[sample], batch.radar_points[sample])


def test_a_stale_scan_shows_moving_things_where_they_were() -> None:
    batch = copies(100, lidars=0)
    after = drop_modalities(batch, ALWAYS_DEGRADE, seeded(), 0.5)
    age = after.radar_age_s - batch.radar_age_s
    stale = (age > 0).nonzero()[:, 0].tolist()
    assert len(stale) > 20
    for sample in stale:
        way = batch.radar_points[sample, :, :2] - after.radar_points[sample, :, :2]
        torch.testing.assert_close(way, batch.boxes[sample, :, VELOCITY] * age[sample], rtol=1e-4, atol=1e-4)
        assert torch.equal(after.radar_points[sample, :, 2:6], batch.radar_points[sample, :, 2:6])


def test_velocities_that_are_not_known_move_nothing() -> None:
    batch = copies(60)
    boxes = batch.boxes.clone()
    boxes[..., VELOCITY] = torch.nan
    after = drop_modalities(replace(batch, boxes=boxes), ALWAYS_DEGRADE, seeded(), 0.5)
    is_stale = after.lidar_age_s[:, 0] > batch.lidar_age_s[:, 0]
    assert is_stale.any()
    assert torch.equal(after.lidar_points[is_stale][..., :4], batch.lidar_points[is_stale][..., :4])


@pytest.mark.parametrize("kept", [{Modality.CAMERA}, {Modality.LIDAR, Modality.RADAR}, set(Modality)])
def test_only_what_is_asked_for_is_left(kept: set[Modality]) -> None:
    has = kinds(only_modalities(copies(2), frozenset(kept)))
    assert has.tolist() == [[one in kept for one in (Modality.CAMERA, Modality.LIDAR, Modality.RADAR)]] * 2


def test_the_same_seed_drops_the_same() -> None:
    batch, config = copies(40), ModalityDropoutConfig(start=0, subset=0.5, degrade=0.5)
    first, again = (drop_modalities(batch, config, seeded(9), 0.5) for _ in range(2))
    for field in fields(batch):
        torch.testing.assert_close(
            getattr(first, field.name), getattr(again, field.name), rtol=0, atol=0, equal_nan=True
        )
