"""From what the heads say to what is published: detections and path hints in numpy."""

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ModelConfig
from perception.core.errors import ModelError
from perception.core.results import NO_TRACK, Detections, PathHints
from perception.core.taxonomy import ATTRIBUTES, CLASS_ATTRIBUTES, CLASSES, NO_ATTRIBUTE
from perception.models.boxes import CENTER, VELOCITY, sizes_of, yaws_of
from perception.models.tensors import FusionTensors

F32 = NDArray[np.float32]

_MAY_HAVE = np.array([[name in CLASS_ATTRIBUTES[label] for name in ATTRIBUTES] for label in CLASSES])
"""(classes, attributes) bool: True where the class knows the attribute."""


def to_detections(tensors: FusionTensors, config: ModelConfig, row: int = 0) -> Detections:
    """Detections of bundle `row` of the batch, best score first, then by cell index; not yet tracked.

    Each query gives at most one box, of its best class. Boxes below `score_threshold` are left out, and so is a box
    whose centre lies within half the width of a better one of its class: two bodies cannot be that close.
    Raises ModelError where the network's outputs are not finite.
    """
    score = _sigmoid(tensors.class_logits[-1, row].float().numpy())  # (Q, classes)
    boxes: F32 = tensors.boxes[-1, row].float().numpy()  # (Q, 10)
    attribute: F32 = tensors.attribute_logits[-1, row].float().numpy()  # (Q, attributes)
    cell: NDArray[np.int64] = tensors.query_cell[row].numpy()  # (Q,)
    _require_finite(boxes=boxes, scores=score, attributes=attribute)
    label = score.argmax(axis=1)  # (Q,)
    best = score.max(axis=1)  # (Q,)
    order = np.lexsort((label, cell, -best))
    order = order[best[order] >= config.score_threshold]
    order = order[_keep_apart(boxes[order, :2], sizes_of(boxes[order])[:, 1], label[order])]
    order = order[: config.max_detections]
    allowed = _MAY_HAVE[label[order]]  # (N, attributes)
    named = np.where(allowed, attribute[order], -np.inf).argmax(axis=1)
    return Detections(
        class_index=label[order].astype(np.int64),
        score=best[order],
        center_m=boxes[order, CENTER],
        size_m=sizes_of(boxes[order]),
        yaw_rad=yaws_of(boxes[order]),
        velocity_mps=boxes[order, VELOCITY],
        attribute_index=np.where(allowed.any(axis=1), named, NO_ATTRIBUTE).astype(np.int64),
        track_id=np.full(len(order), NO_TRACK, dtype=np.int64),
    )


def to_path_hints(tensors: FusionTensors, config: ModelConfig, row: int = 0) -> PathHints:
    """Path hints of bundle `row`, most confident mode first. Raises ModelError where they are not finite."""
    logits: F32 = tensors.mode_logits[row].float().numpy()  # (modes,)
    waypoints: F32 = tensors.waypoints_m[row].float().numpy()  # (modes, steps, 2)
    speed = float(tensors.target_speed_mps[row])
    _require_finite(modes=logits, waypoints=waypoints, speed=np.array([speed]))
    weight = np.exp(logits.astype(np.float64) - logits.max())
    confidence = weight / weight.sum()
    order = np.argsort(-confidence, kind="stable")
    steps = np.arange(1, config.path_steps + 1, dtype=np.float32)
    return PathHints(
        confidence=confidence[order].astype(np.float32),
        waypoints_m=waypoints[order],
        times_s=steps * np.float32(config.path_step_s),
        target_speed_mps=max(0.0, speed),
    )


def to_dense(tensors: FusionTensors, row: int = 0) -> dict[str, F32]:
    """The dense head of bundle `row`: `heatmap` (classes, G, G) and `drivable` (G, G), both in 0..1.

    Rows go along x (forward), columns along y (left), from -range to +range.
    """
    return {
        "heatmap": _sigmoid(tensors.heat_logits[row].float().numpy()),
        "drivable": _sigmoid(tensors.drivable_logits[row].float().numpy()),
    }


def _keep_apart(xy_m: F32, width_m: F32, label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for each of the boxes (N,), best first, that is not on top of a better kept one of its class."""
    distance = np.hypot(*(xy_m[:, None] - xy_m[None]).transpose(2, 0, 1))  # (N, N)
    is_clash = (distance < width_m[:, None] / 2) & (label[:, None] == label[None])
    is_kept = np.ones(len(label), dtype=bool)
    for i in range(len(label)):
        if is_kept[i]:
            is_kept[i + 1 :] &= ~is_clash[i, i + 1 :]
    return is_kept


def _sigmoid(logits: F32) -> F32:
    score = 1 / (1 + np.exp(-np.clip(logits, -60.0, 60.0)))
    return score.astype(np.float32)


def _require_finite(**outputs: NDArray[np.floating]) -> None:
    for name, values in outputs.items():
        if not np.all(np.isfinite(values)):
            raise ModelError(f"the network's {name} are not finite numbers; the weights are broken, load others")
