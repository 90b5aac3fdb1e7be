"""Denoising queries: what they are made of, and that nobody else notices them."""

from dataclasses import replace

import pytest
import torch

from perception.config.training import LossConfig
from perception.models.boxes import BOX_FIELDS, CENTER, LOG_SIZE, YAW
from perception.models.queries import DenoisingQueries
from perception.models.tensors import FusionTensors
from perception.training.batch import TrainingBatch
from perception.training.denoising import LABEL_NOISE, MIN_SHIFT_M, noisy_copies
from perception.training.forward import forward
from perception.training.targets import objects_of
from perception.training.view_geometry import view_geometry
from tests.training_samples import SMALL, small_batch, small_network

CONFIG = LossConfig(denoising_queries=24)
QUERIES = SMALL.heatmap_queries + SMALL.learned_queries


def copies_of(batch: TrainingBatch, config: LossConfig = CONFIG, seed: int = 0) -> DenoisingQueries:
    copies = noisy_copies(batch, config, SMALL, torch.Generator().manual_seed(seed))
    assert copies is not None
    return copies


@torch.no_grad()
def fused(batch: TrainingBatch, copies: DenoisingQueries | None) -> FusionTensors:
    return forward(small_network().eval(), batch, view_geometry(batch, SMALL), copies).tensors


def test_ordinary_queries_do_not_notice_the_copies() -> None:
    batch = small_batch(5, 0, 40)
    with_copies, without = fused(batch, copies_of(batch)), fused(batch, None)
    assert with_copies.class_logits.shape[2] == QUERIES + CONFIG.denoising_queries
    for name in ("class_logits", "boxes", "attribute_logits"):
        ordinary = getattr(with_copies, name)[:, :, :QUERIES]
        torch.testing.assert_close(ordinary, getattr(without, name), atol=2e-5, rtol=1e-5)
    for name in ("heat_logits", "mode_logits", "waypoints_m", "target_speed_mps"):
        torch.testing.assert_close(getattr(with_copies, name), getattr(without, name), atol=2e-5, rtol=1e-5)


def test_groups_do_not_see_each_other_nor_padding() -> None:
    batch = small_batch(5, 3)
    copies = copies_of(batch)
    changed = replace(copies, boxes=copies.boxes.clone(), class_index=copies.class_index.clone())
    is_other = (copies.group != 1) | ~copies.is_real
    changed.boxes[is_other] += 3.0
    changed.class_index[is_other] = 9
    before, after = fused(batch, copies), fused(batch, changed)
    same = before.class_logits[:, :, QUERIES:][:, ~is_other], after.class_logits[:, :, QUERIES:][:, ~is_other]
    torch.testing.assert_close(*same, atol=2e-5, rtol=1e-5)
    other = before.class_logits[:, :, QUERIES:][:, is_other] - after.class_logits[:, :, QUERIES:][:, is_other]
    assert float(other.abs().max()) > 1e-3


def test_copies_of_a_group_see_each_other() -> None:
    batch = small_batch(5)
    copies = copies_of(batch)
    changed = replace(copies, class_index=copies.class_index.clone())
    changed.class_index[0, 0] = (copies.class_index[0, 0] + 1) % 10
    before, after = fused(batch, copies).class_logits, fused(batch, changed).class_logits
    assert float((before - after)[:, 0, QUERIES + 1 : QUERIES + 5].abs().min(dim=0).values.max()) > 1e-6


@pytest.mark.parametrize("objects", [1, 5, 23, 24])
def test_every_object_has_one_copy_in_every_whole_group(objects: int) -> None:
    batch = small_batch(objects)
    copies = copies_of(batch)
    assert copies.is_real.all()
    for group in range(CONFIG.denoising_queries // objects):
        assert sorted(copies.source[copies.group == group].tolist()) == list(range(objects))


def test_of_too_many_objects_some_are_chosen_anew_each_time() -> None:
    batch = small_batch(40)
    first, second = copies_of(batch, seed=0), copies_of(batch, seed=1)
    assert not first.group.any()
    assert len(set(first.source[0].tolist())) == CONFIG.denoising_queries
    assert set(first.source[0].tolist()) != set(second.source[0].tolist())


def test_frames_without_objects_have_copies_that_are_not_real() -> None:
    copies = copies_of(small_batch(0, 2))
    assert not copies.is_real[0].any()
    assert copies.is_real[1].all()
    none = copies_of(small_batch(0))
    assert not none.is_real.any()
    assert none.boxes.shape == (1, CONFIG.denoising_queries, len(BOX_FIELDS))


def test_noise_stays_within_what_the_decoder_meets() -> None:
    batch = small_batch(8, 8)
    many = LossConfig(denoising_queries=800)
    copies, objects = copies_of(batch, many), objects_of(batch, SMALL)
    boxes = objects.boxes_at(copies.source)
    reach = (boxes[..., LOG_SIZE].exp().amax(dim=-1, keepdim=True) / 2).clamp(min=MIN_SHIFT_M)
    shift = (copies.boxes - boxes)[..., CENTER].abs() / reach
    assert float(shift[..., :2].max()) == pytest.approx(1.0, abs=0.02)
    assert copies.boxes.isfinite().all()
    torch.testing.assert_close(copies.boxes[..., YAW].norm(dim=-1), torch.ones(2, 800), atol=1e-5, rtol=0)
    is_wrong = (copies.class_index != objects.class_index.gather(1, copies.source)).float().mean()
    assert float(is_wrong) == pytest.approx(LABEL_NOISE * 0.9, abs=0.04)


@pytest.mark.parametrize("config", [LossConfig(denoising_queries=0), LossConfig(denoising=0.0)])
def test_no_copies_where_none_are_wanted(config: LossConfig) -> None:
    assert noisy_copies(small_batch(2), config, SMALL, torch.Generator()) is None
