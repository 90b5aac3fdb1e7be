"""The gates of the recipe: a network that cannot pass these on a few frames will learn nothing from many."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from perception.config.training import TrainingConfig
from perception.core.geometry import invert
from perception.core.rig import Modality
from perception.evaluation.subsets import SUBSETS, Subset, subset_name
from perception.models.boxes import CENTER, sizes_of, yaws_of
from perception.models.network import PerceptionNetwork
from perception.training.collate import collate
from perception.training.forward import forward
from perception.training.frames import TrainingFrame
from perception.training.losses import compute_losses
from perception.training.prefetch import to_device
from perception.training.validation import validate
from perception.training.view_geometry import view_geometry

ENCODERS: Final = ("camera_encoder", "lidar_encoder", "radar_encoder")
LEAST_RECALL: Final = 0.9
RADAR_MARGIN_M: Final = 0.5
"""A return so close beside a box is of it: that is about how exactly a radar measures."""
LIDAR_MARGIN_M: Final = 0.1
LEAST_VISIBLE: Final = 0.4
"""Less of an object in view is the lowest of nuScenes' four levels of visibility."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """config: a shipped training configuration. trains: whether it trains, or judges fresh weights. subsets: those that
    must reach `least_map`. dense_slack: how much the decoder's mAP may be below that of the dense head; both end near
    1, where one box more or less decides."""

    config: str
    trains: bool = True
    subsets: tuple[Subset, ...] = SUBSETS
    least_map: float = 0.9
    dense_slack: float = 0.01


GATES: Final = {
    "overfit": Gate(config="gate_overfit"),
    "overfit-small": Gate(config="gate_overfit_small", least_map=0.6, dense_slack=0.05),
    "base": Gate(config="gate_base", subsets=SUBSETS[:1]),
    "gradients": Gate(config="gate_overfit_small", trains=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition: `value` must be at least `least`."""

    name: str
    value: float
    least: float

    @property
    def is_passed(self) -> bool:
        return self.value >= self.least


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """What a gate found. scores: as `validate` gives them."""

    checks: tuple[Check, ...]
    scores: dict[str, Any]

    @property
    def is_passed(self) -> bool:
        return all(check.is_passed for check in self.checks)


def judge_overfit(
    network: PerceptionNetwork, frames: Sequence[TrainingFrame], device: torch.device, gate: Gate
) -> GateReport:
    """Whether a network in eval mode knows by heart the frames it was trained on.

    mAP of at least `gate.least_map` with each of its subsets of the sensors, on the labels that this subset can see;
    heatmap recall; and a decoder that is no worse than the dense head that it starts from.
    """
    scores = validate(network, frames, device, subsets=gate.subsets, asked=can_see)
    checks = []
    for subset in gate.subsets:
        name, of_subset = subset_name(subset), scores["subsets"][subset_name(subset)]
        if of_subset["map"] is not None:  # else there is nothing that it could see
            checks.append(Check(name=f"mAP {name}", value=of_subset["map"], least=gate.least_map))
    whole = scores["subsets"][subset_name(SUBSETS[0])]
    checks.append(Check(name="heatmap recall", value=whole["heatmap_recall"], least=LEAST_RECALL))
    checks.append(
        Check(name="decoder mAP over dense head mAP", value=whole["map"] - whole["dense_map"], least=-gate.dense_slack)
    )
    return GateReport(checks=tuple(checks), scores=scores)


def judge_gradients(
    network: PerceptionNetwork, frames: Sequence[TrainingFrame], config: TrainingConfig, device: torch.device
) -> GateReport:
    """Whether every parameter of every encoder gets a gradient from a batch in which all sensors are present.

    At once or after a first step: blocks of a ResNet that begin as their shortcut let none by before it. `network`
    stays as it is.
    """
    batch = to_device(collate(frames, network.config, config.data.max_boxes), device)
    learner = copy.deepcopy(network).train()
    optimiser = torch.optim.Adam(learner.parameters(), lr=config.optimiser.peak_rate)
    reached: set[str] = set()
    for _ in range(2):
        optimiser.zero_grad(set_to_none=True)
        outputs = forward(learner, batch, view_geometry(batch, learner.config))
        torch.autograd.backward(compute_losses(outputs, batch, config.loss, learner.config).total)
        reached |= {
            name
            for name, parameter in learner.named_parameters()
            if parameter.grad is not None and bool((parameter.grad != 0).any())
        }
        optimiser.step()
    checks = []
    for encoder in ENCODERS:
        names = [f"{encoder}.{name}" for name, _ in learner.get_submodule(encoder).named_parameters()]
        share = float(np.mean([name in reached for name in names]))
        checks.append(Check(name=f"parameters of the {encoder} with a gradient", value=share, least=1.0))
    return GateReport(checks=tuple(checks), scores={})


def can_see(frame: TrainingFrame, subset: Subset) -> NDArray[np.bool_]:
    """Labels (M,) that a subset of the sensors can know of: centre within a camera's picture and enough of it not
    hidden, a lidar point in the box, a radar return in the box or right beside it."""
    is_seen = np.zeros(len(frame.class_index), dtype=np.bool_)
    if Modality.CAMERA in subset:
        is_seen |= _in_pictures(frame) & ~(frame.visible_share < LEAST_VISIBLE)  # not known counts as visible
    if Modality.LIDAR in subset:
        is_seen |= _holds_points(frame, frame.lidar_points[:, :3], LIDAR_MARGIN_M, flat=False)
    if Modality.RADAR in subset:
        is_seen |= _holds_points(frame, frame.radar_points[:, :3], RADAR_MARGIN_M, flat=True)
    return is_seen


def _in_pictures(frame: TrainingFrame) -> NDArray[np.bool_]:
    is_seen = np.zeros(len(frame.class_index), dtype=np.bool_)
    centers = frame.boxes[:, CENTER].astype(np.float64)
    for camera, pose, top_px in zip(frame.cameras, frame.reference_SE3_camera, frame.top_px, strict=True):
        camera_SE3_reference = invert(pose.astype(np.float64))
        pixels, is_visible = camera.project(centers @ camera_SE3_reference[:3, :3].T + camera_SE3_reference[:3, 3])
        u, v = pixels[:, 0], pixels[:, 1]
        is_inside = (u >= 0) & (u < camera.width_px) & (v >= top_px) & (v < camera.height_px)
        is_seen |= is_visible & is_inside
    return is_seen


def _holds_points(
    frame: TrainingFrame, points_m: NDArray[np.float32], margin_m: float, *, flat: bool
) -> NDArray[np.bool_]:
    """Boxes (M,) with a point (P, 3) inside, or at most `margin_m` outside. flat: height does not count."""
    yaw = yaws_of(frame.boxes)
    offset = points_m[None] - frame.boxes[:, None, CENTER]  # (M, P, 3)
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    half = sizes_of(frame.boxes)[:, None] / 2 + margin_m  # (M, 1, 3)
    is_inside: NDArray[np.bool_] = (np.abs(along) <= half[..., 0]) & (np.abs(across) <= half[..., 1])
    if not flat:
        is_inside &= np.abs(offset[..., 2]) <= half[..., 2]
    return np.asarray(is_inside.any(axis=1))
