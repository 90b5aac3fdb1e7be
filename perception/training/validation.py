"""How good the averaged network is on frames that it was not trained on, for each subset of the sensors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from perception.config.schema import ModelConfig
from perception.core.geometry import quaternion_from_yaw
from perception.core.labels import UNKNOWN_COUNT, Labels
from perception.core.results import Detections
from perception.core.taxonomy import CLASSES
from perception.evaluation.detection import evaluate_detection
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.subsets import SUBSETS, Subset, subset_name
from perception.models.blocks import to_tokens
from perception.models.boxes import CENTER, VELOCITY, sizes_of, yaws_of
from perception.models.heads.path import constant_arc
from perception.models.network import PerceptionNetwork
from perception.models.postprocess import to_detections
from perception.models.queries import POINT_CLASSES, select_peaks
from perception.models.tensors import FusionTensors
from perception.training.collate import collate
from perception.training.dropout import only_modalities
from perception.training.forward import forward
from perception.training.frames import TrainingFrame
from perception.training.prefetch import to_device
from perception.training.view_geometry import view_geometry

BATCH: Final = 4
MATCH_M: Final = 2.0
"""A peak of the heatmap, or a detection, this close to a label's centre is of that label."""

Asked = Callable[[TrainingFrame, Subset], NDArray[np.bool_]]
"""Which labels (M,) of a frame count with a subset of the sensors. The others are neither asked nor held against the
network where it finds them all the same."""


@dataclass(slots=True)
class _Judged:
    """What was found with one subset, frame by frame."""

    decoder: list[EvaluatedFrame] = field(default_factory=list)
    dense: list[EvaluatedFrame] = field(default_factory=list)
    labels: int = 0
    recalled: int = 0


@torch.inference_mode()
def validate(
    network: PerceptionNetwork,
    frames: Sequence[TrainingFrame],
    device: torch.device,
    *,
    subsets: Sequence[Subset] = SUBSETS,
    most: int | None = None,
    asked: Asked | None = None,
) -> dict[str, Any]:
    """Scores of a network in eval mode on labelled frames.

    most: frames looked at with all sensors, a quarter as many with fewer; None: all, with every subset. asked: see
    `Asked`; None: every label counts.

    Returns `nds` and `map` (with all sensors; of the classes that occur), `min_ade_m` of the paths and `surest_ade_m`
    of the most confident ones beside `arc_ade_m`, that of an ego which just drives on, and `subsets`: by name `map`,
    `nds`, `dense_map` (of the dense head's own boxes), `heatmap_recall` (labels with a peak of their class within 2 m)
    and `frames`.
    """
    config = network.config
    scores: dict[str, dict[str, float | int | None]] = {}
    paths: list[tuple[float, float, float]] = []
    for subset in subsets:
        is_whole = subset == SUBSETS[0]
        chosen = _spread(frames, most if is_whole or most is None else max(1, most // 4))
        judged = _Judged()
        for start in range(0, len(chosen), BATCH):
            some = chosen[start : start + BATCH]
            tensors = _run(network, some, subset, device)
            for row, frame in enumerate(some):
                is_asked = asked(frame, subset) if asked else np.ones(len(frame.class_index), dtype=np.bool_)
                _judge(judged, tensors, row, frame, is_asked, config)
                if is_whole and frame.path_known.any():
                    paths.append(path_errors(tensors, row, frame, config))
        scores[subset_name(subset)] = _score(judged)
    whole = scores[subset_name(SUBSETS[0])] if SUBSETS[0] in subsets else next(iter(scores.values()))
    best, surest, arc = np.mean(paths, axis=0).tolist() if paths else (None, None, None)
    ways = {"min_ade_m": best, "surest_ade_m": surest, "arc_ade_m": arc}
    return {"nds": whole["nds"], "map": whole["map"], **ways, "subsets": scores}


def labels_of(frame: TrainingFrame) -> Labels:
    """The labels that a frame is trained on, as the evaluation takes them."""
    count = len(frame.class_index)
    unknown = np.full(count, UNKNOWN_COUNT, dtype=np.int64)
    return Labels(
        reference_ns=frame.reference_ns,
        category=tuple(CLASSES[index] for index in frame.class_index),
        class_index=frame.class_index,
        center_m=frame.boxes[:, CENTER].astype(np.float64),
        size_m=sizes_of(frame.boxes).astype(np.float64),
        quaternion_wxyz=quaternion_from_yaw(yaws_of(frame.boxes).astype(np.float64)).reshape(count, 4),
        velocity_mps=frame.boxes[:, VELOCITY].astype(np.float64),
        attribute_index=frame.attribute_index,
        track_id=tuple(str(row) for row in range(count)),
        num_lidar_points=unknown,
        num_radar_points=unknown,
    )


def dense_answer(tensors: FusionTensors) -> FusionTensors:
    """What the dense head alone says: its scores and boxes at the cells that the queries came from."""
    cells = tensors.heat_logits.shape[-1] ** 2
    count = int((tensors.query_cell < cells).sum(dim=1)[0])  # learned queries come behind, the same in every bundle
    cell = tensors.query_cell[:, :count, None]
    logits, boxes = to_tokens(tensors.heat_logits), tensors.dense_boxes
    return replace(
        tensors,
        class_logits=logits.gather(1, cell.expand(-1, -1, logits.shape[-1]))[None],
        boxes=boxes.gather(1, cell.expand(-1, -1, boxes.shape[-1]))[None],
        attribute_logits=tensors.attribute_logits[-1:, :, :count],
        query_cell=tensors.query_cell[:, :count],
    )


def path_errors(
    tensors: FusionTensors, row: int, frame: TrainingFrame, config: ModelConfig
) -> tuple[float, float, float]:
    """Mean distance (m) of the best mode, of the surest, and of the arc that the ego is on, from where it went."""
    known = torch.from_numpy(frame.path_known)
    truth = torch.from_numpy(frame.path_m)[known]  # (s, 2)
    times = torch.arange(1, config.path_steps + 1) * config.path_step_s
    ego = torch.from_numpy(frame.ego)
    arc = constant_arc(ego[:1], ego[1:2], times)[0]  # (S, 2)
    modes = (tensors.waypoints_m[row][:, known] - truth).norm(dim=-1).mean(dim=-1)  # (modes,)
    surest = modes[tensors.mode_logits[row].argmax()]
    return float(modes.min()), float(surest), float((arc[known] - truth).norm(dim=-1).mean())


def _run(
    network: PerceptionNetwork, frames: Sequence[TrainingFrame], subset: Subset, device: torch.device
) -> FusionTensors:
    """The network's answer for some frames, on the CPU."""
    most = max(1, *(len(frame.class_index) for frame in frames))
    batch = only_modalities(to_device(collate(frames, network.config, most), device), subset)
    answer = forward(network, batch, view_geometry(batch, network.config)).tensors
    return FusionTensors(**{field.name: getattr(answer, field.name).cpu() for field in fields(answer)})


def _judge(
    judged: _Judged,
    tensors: FusionTensors,
    row: int,
    frame: TrainingFrame,
    is_asked: NDArray[np.bool_],
    config: ModelConfig,
) -> None:
    """Add bundle `row` of a batch to what was found."""
    labels = labels_of(frame)
    wanted, others = labels.rows(is_asked), labels.rows(~is_asked)
    for answer, found in ((tensors, judged.decoder), (dense_answer(tensors), judged.dense)):
        detections = to_detections(answer, config, row)
        found.append(
            EvaluatedFrame(
                drive_id=frame.drive_id,
                reference_ns=frame.reference_ns,
                detections=detections.rows(~_is_of_others(detections, wanted, others)),
                labels=wanted,
            )
        )
    judged.labels += len(wanted)
    judged.recalled += _recalled(tensors, row, wanted, config)


def _is_of_others(detections: Detections, wanted: Labels, others: Labels) -> NDArray[np.bool_]:
    """True for the detections (N,) that are of a label nobody asks for, and closer to it than to one asked for."""
    to_other = _distance(detections, others)
    is_of_other: NDArray[np.bool_] = (to_other < MATCH_M) & (to_other < _distance(detections, wanted))
    return is_of_other


def _distance(detections: Detections, labels: Labels) -> NDArray[np.float64]:
    """From each detection (N,) to the nearest label of its class, infinite where there is none."""
    apart = np.linalg.norm(detections.center_m[:, None, :2] - labels.center_m[None, :, :2], axis=-1)
    apart[detections.class_index[:, None] != labels.class_index[None]] = np.inf
    nearest: NDArray[np.float64] = apart.min(axis=1, initial=np.inf)
    return nearest


def _recalled(tensors: FusionTensors, row: int, labels: Labels, config: ModelConfig) -> int:
    """How many labels have one of the heatmap's best peaks, of their class, beside their centre."""
    is_point = torch.tensor([name in POINT_CLASSES for name in CLASSES])
    label, cell = select_peaks(tensors.heat_logits[row : row + 1], config.heatmap_queries, is_point)
    place = tensors.dense_boxes[row, cell[0], :2].numpy()  # (Q, 2)
    apart = np.linalg.norm(labels.center_m[:, None, :2] - place[None], axis=-1)
    apart[labels.class_index[:, None] != label[0].numpy()[None]] = np.inf
    return int((apart < MATCH_M).any(axis=1).sum())


def _score(judged: _Judged) -> dict[str, float | int | None]:
    decoder, dense = evaluate_detection(judged.decoder), evaluate_detection(judged.dense)
    return {
        "map": _known(decoder.mean_ap_present),
        "nds": _known(decoder.nds_present),
        "dense_map": _known(dense.mean_ap_present),
        "heatmap_recall": judged.recalled / judged.labels if judged.labels else None,
        "frames": len(judged.decoder),
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _spread(frames: Sequence[TrainingFrame], most: int | None) -> list[TrainingFrame]:
    """At most so many frames, evenly spread."""
    count = len(frames) if most is None else min(most, len(frames))
    return [frames[index * len(frames) // count] for index in range(count)]
