"""Losses: nothing for what is right, the formula's value for what is wrong, and targets that say what is true."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from perception.config.training import LossConfig
from perception.core.taxonomy import ATTRIBUTES, CLASS_ATTRIBUTES, CLASS_INDEX, CLASSES
from perception.models.boxes import BOX_FIELDS, CENTER, VELOCITY, VELOCITY_SCALE, encode_boxes
from perception.models.heads.curves import distance_from_curves
from perception.models.heads.depth import DEPTH_BINS, DEPTH_RANGE_M
from perception.models.queries import DenoisingQueries, QueryInit, select_peaks
from perception.models.tensors import FusionTensors
from perception.training.batch import TrainingBatch
from perception.training.forward import Outputs
from perception.training.losses import compute_losses
from perception.training.losses_dense import drivable_loss
from perception.training.losses_image import depth_loss
from perception.training.losses_path import CURVE_SOFTNESS_M
from perception.training.losses_terms import box_error, focal_loss, heat_loss
from perception.training.projection import project
from perception.training.targets import cell_m, dense_assignment, heat_targets, objects_of
from perception.training.targets_image import image_targets
from tests.training_samples import SMALL, small_batch, with_sensors

SURE = 25.0
CELLS = SMALL.bev_cells
QUERIES = SMALL.heatmap_queries + SMALL.learned_queries


def known_batch(*objects: int) -> TrainingBatch:
    """Every label has an attribute that its class may have, or none."""
    batch = small_batch(*objects)
    attribute = batch.attribute_index.clone()
    for place in np.ndindex(*attribute.shape):
        allowed = CLASS_ATTRIBUTES[CLASSES[int(batch.class_index[place])]]
        attribute[place] = ATTRIBUTES.index(allowed[0]) if allowed and batch.class_index[place] >= 0 else -1
    return replace(batch, attribute_index=attribute)


def truth(batch: TrainingBatch) -> Outputs:
    """What a network would say that knew everything, made the plain and slow way; queries in another order."""
    size, objects = len(batch), objects_of(batch, SMALL)
    heat = torch.where(heat_targets(objects, SMALL) == 1, SURE, -SURE)
    dense = torch.zeros(size, CELLS**2, len(BOX_FIELDS))
    logits, boxes = torch.full((size, QUERIES, len(CLASSES)), -SURE), torch.zeros(size, QUERIES, len(BOX_FIELDS))
    attributes = torch.full((size, QUERIES, len(ATTRIBUTES)), -SURE)
    line = (torch.arange(CELLS) + 0.5) * cell_m(SMALL) - SMALL.range_m
    centers = torch.cartesian_prod(line, line)
    for row in range(size):
        rows = torch.nonzero(objects.is_object[row])[:, 0]
        if len(rows) == 0:
            continue
        nearest = torch.cdist(centers, objects.boxes[row, rows, :2]).argmin(dim=1)
        dense[row] = objects.boxes[row, rows[nearest]]
        for query, label in enumerate(reversed(rows.tolist())):
            logits[row, query, objects.class_index[row, label]] = SURE
            boxes[row, query] = objects.boxes[row, label]
            attributes[row, query, objects.attribute_index[row, label]] = SURE
    waypoints = batch.path_m[:, None] + torch.arange(SMALL.path_modes)[:, None, None] * 5.0
    modes = torch.full((size, SMALL.path_modes), -SURE)
    modes[:, 0] = SURE
    image_heat, depth_m = image_targets(batch, objects, SMALL)
    tensors = FusionTensors(
        heat_logits=heat,
        dense_boxes=dense,
        drivable_logits=(batch.drivable * 2 - 1) * SURE,
        class_logits=logits.expand(SMALL.layers, -1, -1, -1),
        boxes=boxes.expand(SMALL.layers, -1, -1, -1),
        attribute_logits=attributes.expand(SMALL.layers, -1, -1, -1),
        query_cell=torch.zeros(size, QUERIES, dtype=torch.int64),
        mode_logits=modes,
        waypoints_m=waypoints,
        target_speed_mps=batch.target_speed_mps,
        curve_logits=-distance_from_curves(batch.path_m, batch.path_known, batch.ego[:, 0])[0] / CURVE_SOFTNESS_M,
        depth_logits=depth_truth(depth_m),
    )
    return Outputs(tensors=tensors, image_heat=torch.where(image_heat == 1, SURE, -SURE), denoising=None)


def depth_truth(depth_m: Tensor) -> Tensor:
    """Logits of a distribution that is all on the two bins around each depth."""
    place = torch.log(depth_m.clamp(*DEPTH_RANGE_M)) / math.log(DEPTH_RANGE_M[1]) * (DEPTH_BINS - 1)
    share = (1 - (torch.arange(DEPTH_BINS) - place[..., None]).abs()).clamp(min=0)
    return torch.log(share + 1e-12)


@pytest.mark.parametrize("objects", [(6, 3), (1,), (0,), (0, 8)])
def test_perfect_outputs_cost_nothing(objects: tuple[int, ...]) -> None:
    batch = known_batch(*objects)
    losses = compute_losses(truth(batch), batch, LossConfig(), SMALL)
    for name, part in losses.parts.items():
        assert float(part) == pytest.approx(0.0, abs=2e-4), name


def wrong_curves(outputs: Outputs) -> float:
    """What it costs to take all curves for equally likely: how far the right shares are from that."""
    share = outputs.tensors.curve_logits.softmax(dim=1)
    return float((math.log(share.shape[1]) - torch.special.entr(share).sum(dim=1)).mean())


def shifted(outputs: Outputs, **changes: Tensor) -> Outputs:
    return replace(outputs, tensors=replace(outputs.tensors, **changes))


def test_each_loss_sees_its_own_mistake_and_no_other() -> None:
    batch, config = known_batch(6, 3), LossConfig()
    right = truth(batch)
    t = right.tensors
    moved = torch.zeros(len(BOX_FIELDS))
    moved[0], moved[8] = 0.5, 2.0
    error = 0.5 + config.velocity * 2.0 / VELOCITY_SCALE
    wrong: dict[str, tuple[Outputs, float]] = {
        "dense_box": (shifted(right, dense_boxes=t.dense_boxes + moved), config.dense_box * error),
        "box": (shifted(right, boxes=t.boxes + moved), config.box * SMALL.layers * error),
        "path": (shifted(right, waypoints_m=t.waypoints_m + 0.1), config.path * 0.2),
        "mode": (shifted(right, mode_logits=t.mode_logits * 0), config.mode * math.log(SMALL.path_modes)),
        "curve": (shifted(right, curve_logits=t.curve_logits * 0), config.curve * wrong_curves(right)),
        "speed": (shifted(right, target_speed_mps=t.target_speed_mps - 3), config.speed * 3.0),
    }
    for name, (outputs, expected) in wrong.items():
        parts = compute_losses(outputs, batch, config, SMALL).parts
        assert float(parts.pop(name)) == pytest.approx(expected, rel=1e-3), name
        assert max(map(float, parts.values())) < 2e-4, name


def test_modes_about_as_near_may_share_the_confidence() -> None:
    """Softly: what is asked for falls with the distance, costs nothing where it is met, and is no matter of order."""
    batch, soft = known_batch(2, 1), LossConfig(mode_softness_m=2.0)
    right = truth(batch)
    away = torch.arange(SMALL.path_modes) * 2 * 5.0  # sum of x and y, as the modes of `truth` lie
    met = shifted(right, mode_logits=(-away / 2.0).expand(len(batch), -1))
    assert float(compute_losses(met, batch, soft, SMALL).parts["mode"]) == pytest.approx(0.0, abs=1e-5)
    assert float(compute_losses(met, batch, LossConfig(), SMALL).parts["mode"]) > 1e-3
    sure = float(compute_losses(right, batch, soft, SMALL).parts["mode"])
    assert (
        1e-3
        < sure
        < float(
            compute_losses(shifted(right, mode_logits=-right.tensors.mode_logits), batch, soft, SMALL).parts["mode"]
        )
    )


def test_losses_do_not_grow_with_the_number_of_objects_frames_or_missing_frames() -> None:
    one, many = known_batch(6), known_batch(6, 0)
    two = replace(many, **{name: torch.cat([getattr(one, name)] * 2) for name in TrainingBatch.__slots__})
    quiet = LossConfig(drivable=0.0, path=0.0, mode=0.0, speed=0.0, image_depth=0.0)
    expected: dict[str, Tensor] = {}
    for batch in (one, two, many):
        right = truth(batch)
        flat = {name: getattr(right.tensors, name) for name in ("dense_boxes", "boxes")}
        wrong = shifted(right, **{name: value + 0.1 for name, value in flat.items()})
        parts = compute_losses(wrong, batch, quiet, SMALL).parts
        expected = expected or parts
        for name in ("dense_box", "box"):
            assert float(parts[name]) == pytest.approx(float(expected[name]), rel=1e-4), name


def test_a_mended_copy_costs_nothing_and_an_unreal_one_never_does() -> None:
    batch = known_batch(3, 0)
    objects, right = objects_of(batch, SMALL), truth(known_batch(3, 0))
    source = torch.tensor([[0, 1, 2, 0], [0, 0, 0, 0]])
    copies = DenoisingQueries(
        class_index=torch.zeros_like(source),
        boxes=torch.zeros(2, 4, len(BOX_FIELDS)),
        group=torch.zeros_like(source),
        is_real=objects.is_object.gather(1, source),
        source=source,
    )
    label = objects.class_index.gather(1, source)
    answer = torch.where(torch.nn.functional.one_hot(label, len(CLASSES)) > 0, SURE, -SURE)
    boxes = objects.boxes_at(source)
    boxes[1] = 100.0
    layers = (SMALL.layers, -1, -1, -1)
    t = right.tensors
    mended = Outputs(
        tensors=replace(
            t,
            class_logits=torch.cat([t.class_logits, answer.expand(layers)], dim=2),
            boxes=torch.cat([t.boxes, boxes.expand(layers)], dim=2),
            query_cell=torch.zeros(2, QUERIES + 4, dtype=torch.int64),
        ),
        image_heat=right.image_heat,
        denoising=copies,
    )
    assert float(compute_losses(mended, batch, LossConfig(), SMALL).parts["denoising"]) == pytest.approx(0, abs=1e-4)
    off = replace(mended, tensors=replace(mended.tensors, boxes=mended.tensors.boxes + 0.1))
    config = LossConfig(velocity=0.0)
    expected = config.box * SMALL.layers * 8 * 0.1
    assert float(compute_losses(off, batch, config, SMALL).parts["denoising"]) == pytest.approx(expected, rel=1e-3)


def test_every_object_is_a_peak_of_perfect_heat() -> None:
    batch = small_batch(20, 12, 1)
    objects = objects_of(batch, SMALL)
    heat = torch.logit(heat_targets(objects, SMALL), eps=1e-6)
    label, cell = select_peaks(heat, 20, QueryInit(SMALL).is_point)
    for row in range(3):
        found = set(zip(label[row].tolist(), cell[row].tolist(), strict=True))
        for column in torch.nonzero(objects.is_object[row])[:, 0]:
            x, y = objects.boxes[row, column, :2].tolist()
            place = [math.floor((value + SMALL.range_m) / cell_m(SMALL)) for value in (x, y)]
            assert (int(objects.class_index[row, column]), place[0] * CELLS + place[1]) in found


def test_larger_objects_are_warmer_around() -> None:
    batch = small_batch(1)
    widths = []
    for length in (0.5, 4.0, 12.0):
        box = encode_boxes(np.array([[10.0, 3.0, 1.0]]), np.array([[length, 2.5, 2.0]]), np.zeros(1), np.zeros((1, 2)))
        objects = objects_of(replace(batch, boxes=torch.from_numpy(box)[None]), SMALL)
        heat = heat_targets(objects, SMALL)
        assert float(heat.max()) == 1.0
        assert int((heat == 1).sum()) == 1
        widths.append(float(heat.sum()))
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_labels_outside_the_view_or_the_classes_are_no_objects() -> None:
    batch = small_batch(4)
    boxes, classes = batch.boxes.clone(), batch.class_index.clone()
    boxes[0, 0, 0], classes[0, 1] = SMALL.range_m + 0.1, -1
    boxes[0, 2, 8:] = torch.nan
    objects = objects_of(replace(batch, boxes=boxes, class_index=classes), SMALL)
    assert objects.is_object[0].tolist() == [False, False, True, True]
    assert objects.is_moving_known[0].tolist() == [False, False, False, True]
    assert objects.boxes.isfinite().all()


@pytest.mark.parametrize("count", [1, 4, 9])
def test_an_object_has_its_nearest_cells_unless_another_is_nearer(count: int) -> None:
    batch = small_batch(12, 3)
    objects = objects_of(batch, SMALL)
    cells, is_assigned = dense_assignment(objects, SMALL, count)
    line = (torch.arange(CELLS) + 0.5) * cell_m(SMALL) - SMALL.range_m
    distance = torch.cdist(torch.cartesian_prod(line, line).expand(2, -1, -1), objects.boxes[..., :2])
    for row in range(2):
        rows = torch.nonzero(objects.is_object[row])[:, 0].tolist()
        owners: dict[int, int] = {}
        for column in rows:
            for cell in distance[row, :, column].topk(count, largest=False).indices.tolist():
                if cell not in owners or distance[row, cell, column] < distance[row, cell, owners[cell]]:
                    owners[cell] = column
        found = {int(cells[row, m, k]): int(m) for m, k in torch.nonzero(is_assigned[row])}
        assert found == owners


def test_lidar_points_and_centres_say_how_far_tokens_look() -> None:
    batch = small_batch(6)
    objects = objects_of(batch, SMALL)
    heat, depth = image_targets(batch, objects, SMALL)
    rows, columns = SMALL.image.height_px // 16, SMALL.image.width_px // 16
    assert heat.shape == (1, 3, len(CLASSES), rows, columns)
    points = batch.lidar_points[:, 0, : int(batch.lidar_count[0, 0]) : 2, :3]
    seen, centre = project(batch, points), project(batch, objects.boxes[..., CENTER])
    expected = torch.full((3, rows, columns), torch.inf)
    for place, is_point in ((seen, True), (centre, False)):
        of_kind = torch.full((3, rows, columns), torch.inf)
        for camera, number in torch.nonzero(place.is_seen[0]):
            u, v = float(place.u_px[0, camera, number]), float(place.v_px[0, camera, number])
            at = int(camera), int((v + 0.5) // 16), int((u + 0.5) // 16)
            of_kind[at] = torch.minimum(of_kind[at], place.distance_m[0, camera, number])
            if not is_point:
                assert heat[0, camera, objects.class_index[0, number], at[1], at[2]] == 1
        expected = torch.where(expected.isfinite(), expected, of_kind)
    torch.testing.assert_close(depth[0].view(3, rows, columns), expected)
    assert int(depth.isfinite().sum()) > 20
    assert int((heat == 1).sum()) <= int(centre.is_seen.sum())


def test_a_lidar_that_the_network_lost_still_teaches_depth() -> None:
    batch = small_batch(6)
    objects = objects_of(batch, SMALL)
    whole = image_targets(batch, objects, SMALL)[1]
    lost = image_targets(with_sensors(batch, "camera"), objects, SMALL)[1]
    blind = image_targets(with_sensors(batch, "lidar"), objects, SMALL)
    torch.testing.assert_close(whole, lost)
    assert not blind[1].isfinite().any()
    assert not blind[0].any()


def test_depth_loss_is_the_divergence_from_the_two_bins() -> None:
    depth = torch.tensor([[[20.0, torch.inf]]])
    even = torch.zeros(1, 1, 2, DEPTH_BINS)
    place = math.log(20.0) / math.log(DEPTH_RANGE_M[1]) * (DEPTH_BINS - 1)
    share = place - math.floor(place)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert float(depth_loss(even, depth)) == pytest.approx(math.log(DEPTH_BINS) - entropy, rel=1e-4)
    assert float(depth_loss(depth_truth(depth), depth)) == pytest.approx(0.0, abs=1e-5)


def test_heat_and_focal_losses_are_their_formulas() -> None:
    logits, target = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([1.0, 0.6, 0.0])
    p = torch.sigmoid(logits).double().numpy()
    heat = -((1 - p[0]) ** 2) * np.log(p[0])
    heat -= 0.4**4 * p[1] ** 2 * np.log(1 - p[1]) + p[2] ** 2 * np.log(1 - p[2])
    assert float(heat_loss(logits, target)) == pytest.approx(heat, rel=1e-5)
    found = focal_loss(logits, torch.tensor([1.0, 0.0, 0.0]))
    assert float(found[0]) == pytest.approx(-0.25 * (1 - p[0]) ** 2 * np.log(p[0]), rel=1e-5)
    assert float(found[2]) == pytest.approx(-0.75 * p[2] ** 2 * np.log(1 - p[2]), rel=1e-5)


def test_a_barrier_has_no_front_but_a_car_has() -> None:
    box = torch.zeros(len(BOX_FIELDS))
    box[6], box[7] = math.sin(0.4), math.cos(0.4)
    turned = box.clone()
    turned[6:8] = -box[6:8]
    known = torch.tensor(True)
    barrier, car = (torch.tensor(CLASS_INDEX[name]) for name in ("barrier", "car"))
    assert float(box_error(turned, box, barrier, known, 1.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(box_error(turned, box, car, known, 1.0)) == pytest.approx(2 * (math.sin(0.4) + math.cos(0.4)))


def test_velocity_counts_only_where_it_is_known() -> None:
    box, other = torch.zeros(2, len(BOX_FIELDS)), torch.zeros(2, len(BOX_FIELDS))
    other[:, VELOCITY] = 10.0
    error = box_error(box, other, torch.zeros(2, dtype=torch.int64), torch.tensor([True, False]), 0.5)
    assert error.tolist() == pytest.approx([0.5 * 20 / VELOCITY_SCALE, 0.0])


def test_unknown_ground_counts_for_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, 8, generator=random)
    target = (torch.rand(2, 8, 8, generator=random) < 0.5).float()
    is_known = torch.rand(2, 8, 8, generator=random) < 0.6
    other = torch.where(is_known, logits, 7.0)
    torch.testing.assert_close(drivable_loss(logits, target, is_known), drivable_loss(other, target, is_known))
    assert float(drivable_loss(logits, target, torch.zeros_like(is_known))) == 0.0
    assert float(drivable_loss(logits, target, is_known)) > 0.5
