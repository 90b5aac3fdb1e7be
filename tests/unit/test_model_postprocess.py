"""From logits to what is published."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.config.schema import ModelConfig
from perception.core.errors import ModelError
from perception.core.taxonomy import ATTRIBUTE_INDEX, ATTRIBUTES, CLASS_ATTRIBUTES, CLASS_INDEX, CLASSES
from perception.models.boxes import BOX_FIELDS
from perception.models.postprocess import to_dense, to_detections, to_path_hints
from perception.models.tensors import FusionTensors

CONFIG = ModelConfig(score_threshold=0.3)
Q, G, MODES, STEPS = 12, 4, 3, 6


def tensors(**changes: torch.Tensor) -> FusionTensors:
    """Outputs of two layers and one bundle that detect nothing, but for `changes`."""
    quiet = FusionTensors(
        heat_logits=torch.zeros(1, len(CLASSES), G, G),
        dense_boxes=torch.zeros(1, G * G, len(BOX_FIELDS)),
        drivable_logits=torch.zeros(1, G, G),
        class_logits=torch.full((2, 1, Q, len(CLASSES)), -9.0),
        boxes=torch.zeros(2, 1, Q, len(BOX_FIELDS)),
        attribute_logits=torch.zeros(2, 1, Q, len(ATTRIBUTES)),
        query_cell=torch.arange(Q)[None],
        mode_logits=torch.zeros(1, MODES),
        waypoints_m=torch.zeros(1, MODES, STEPS, 2),
        target_speed_mps=torch.zeros(1),
        curve_logits=torch.zeros(1, 0),
        depth_logits=torch.zeros(1, 0, 0, 24),
    )
    return replace(quiet, **changes)


def scored(*rows: tuple[int, str, float, float, float]) -> FusionTensors:
    """Queries (row, class, logit, x, y) with boxes of 4 x 2 x 1.5 m."""
    logits, boxes = torch.full((2, 1, Q, len(CLASSES)), -9.0), torch.zeros(2, 1, Q, len(BOX_FIELDS))
    for row, label, logit, x, y in rows:
        logits[-1, 0, row, CLASS_INDEX[label]] = logit
        boxes[-1, 0, row] = torch.tensor([x, y, 0.5, *np.log([4.0, 2.0, 1.5]), 1.0, 0.0, 3.0, -1.0])
    return tensors(class_logits=logits, boxes=boxes)


def test_boxes_come_out_in_metres_best_first_and_equal_scores_by_cell() -> None:
    found = scored((7, "car", 1.0, 10, 0), (2, "bus", 2.0, 0, 10), (5, "car", 1.0, -10, 0))
    found = replace(found, query_cell=torch.arange(Q).flip(0)[None])
    detections = to_detections(found, CONFIG)
    assert [CLASSES[i] for i in detections.class_index] == ["bus", "car", "car"]
    np.testing.assert_allclose(detections.center_m, [[0, 10, 0.5], [10, 0, 0.5], [-10, 0, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(detections.size_m, [[4.0, 2.0, 1.5]] * 3, rtol=1e-5)
    np.testing.assert_allclose(detections.yaw_rad, np.pi / 2, rtol=1e-6)
    np.testing.assert_allclose(detections.velocity_mps, [[3.0, -1.0]] * 3)
    np.testing.assert_allclose(detections.score, 1 / (1 + np.exp([-2.0, -1.0, -1.0])), rtol=1e-5)
    assert detections.track_id.tolist() == [-1, -1, -1]


def test_what_scores_too_low_is_not_published() -> None:
    assert len(to_detections(tensors(), CONFIG)) == 0
    found = scored((1, "car", -1.0, 0, 0), (3, "car", -0.5, 9, 9))  # scores 0.27 and 0.38
    assert to_detections(found, CONFIG).center_m[:, 0].tolist() == [9.0]


def test_one_body_is_one_box_but_neighbours_and_other_classes_stay() -> None:
    found = scored(
        (0, "car", 3.0, 0.0, 0.0), (1, "car", 2.0, 0.9, 0.0), (2, "car", 1.0, 2.1, 0.0), (3, "truck", 0.5, 0.1, 0.0)
    )
    kept = to_detections(found, CONFIG)
    assert [
        (CLASSES[label], round(float(x), 1)) for label, x in zip(kept.class_index, kept.center_m[:, 0], strict=True)
    ] == [
        ("car", 0.0),
        ("car", 2.1),
        ("truck", 0.1),
    ]


def test_a_box_that_was_dropped_drops_no_other() -> None:
    found = scored((0, "car", 3.0, 0.0, 0.0), (1, "car", 2.0, 0.9, 0.0), (2, "car", 1.0, 1.8, 0.0))
    assert to_detections(found, CONFIG).center_m[:, 0].tolist() == pytest.approx([0.0, 1.8])


def test_no_more_than_the_maximum_is_published() -> None:
    found = scored(*((row, "car", 1.0 + row / 10, 8.0 * row, 0.0) for row in range(Q)))
    detections = to_detections(found, CONFIG.model_copy(update={"max_detections": 4}))
    assert detections.center_m[:, 0].tolist() == [88.0, 80.0, 72.0, 64.0]


@pytest.mark.parametrize("label", CLASSES)
def test_an_attribute_is_one_of_its_class(label: str) -> None:
    for favourite in ATTRIBUTES:
        logits = torch.zeros(2, 1, Q, len(ATTRIBUTES))
        logits[..., ATTRIBUTE_INDEX[favourite]] = 5.0
        found = replace(scored((4, label, 3.0, 0, 0)), attribute_logits=logits)
        (detection,) = to_detections(found, CONFIG)
        allowed = CLASS_ATTRIBUTES[label]
        if favourite in allowed:
            assert detection.attribute == favourite
        else:
            assert detection.attribute == (allowed[0] if allowed else None)


def test_extreme_boxes_stay_finite_and_yaw_in_range() -> None:
    found = scored((0, "car", 80.0, 1e6, 0), (1, "car", 1.0, 0, 0))
    boxes = found.boxes.clone()
    boxes[-1, 0, 0, 3:6] = torch.tensor([500.0, -500.0, 0.0])
    boxes[-1, 0, 0, 6:8] = torch.tensor([-0.0, -1.0])
    boxes[-1, 0, 1, 6:8] = 0.0
    detections = to_detections(replace(found, boxes=boxes), CONFIG)
    for name in ("score", "center_m", "size_m", "yaw_rad", "velocity_mps"):
        assert np.all(np.isfinite(getattr(detections, name))), name
    assert np.all(detections.size_m > 0)
    assert detections.size_m.max() < 50
    assert np.all(np.abs(detections.yaw_rad) <= np.float32(np.pi))


@pytest.mark.parametrize("name", ["class_logits", "boxes", "attribute_logits"])
def test_broken_weights_are_an_error_not_a_detection(name: str) -> None:
    with pytest.raises(ModelError, match="not finite"):
        to_detections(tensors(**{name: getattr(tensors(), name) * float("nan")}), CONFIG)


@pytest.mark.parametrize("name", ["mode_logits", "waypoints_m", "target_speed_mps"])
def test_broken_weights_are_an_error_not_a_path(name: str) -> None:
    with pytest.raises(ModelError, match="not finite"):
        to_path_hints(tensors(**{name: getattr(tensors(), name) * float("nan")}), CONFIG)


def test_path_hints_are_ordered_by_confidence() -> None:
    waypoints = torch.arange(MODES, dtype=torch.float32).view(1, MODES, 1, 1).expand(1, MODES, STEPS, 2)
    hints = to_path_hints(
        tensors(
            mode_logits=torch.tensor([[0.0, 2.0, 1.0]]), waypoints_m=waypoints, target_speed_mps=torch.tensor([-0.4])
        ),
        CONFIG,
    )
    assert hints.waypoints_m[:, 0, 0].tolist() == [1.0, 2.0, 0.0]
    assert hints.confidence.sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(hints.confidence[0] / hints.confidence[1], np.e, rtol=1e-5)
    np.testing.assert_allclose(hints.times_s, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    assert hints.target_speed_mps == 0.0


def test_dense_outputs_are_scores() -> None:
    dense = to_dense(tensors())
    assert dense["heatmap"].shape == (len(CLASSES), G, G)
    np.testing.assert_allclose(dense["drivable"], np.full((G, G), 0.5))
