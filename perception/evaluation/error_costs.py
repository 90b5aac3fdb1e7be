"""What each kind of error costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.detection import evaluate_detection
from perception.evaluation.detection_matching import UNMATCHED
from perception.evaluation.frames import EvaluatedFrame

I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

MATCH_M: Final = 2.0
"""Centres this close are of one object; nuScenes takes its errors of true positives at this distance."""
LOOSE_M: Final = 4.0
"""A detection of the right class this close meant the object, but put it in the wrong place."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """How each detection and label of one frame fared. Detections: N rows, labels: K rows.

    is_loose: (N,) of an object of its class, within `LOOSE_M`. label: (N,) that object's row. is_other_class: (N,) none
    of its class, but within `MATCH_M` of one of another class that nothing has found; other_class: (N,) which.
    is_double: (N,) beside an object that a better detection has taken. is_invented: (N,) none of these.
    is_missed: (K,) nothing of its class within `LOOSE_M`.
    """

    is_loose: Bool
    label: I64
    is_other_class: Bool
    other_class: I64
    is_double: Bool
    is_invented: Bool
    is_missed: Bool


def judge(frame: EvaluatedFrame) -> Judgement:
    """Greedy, best score first, as the protocol matches; each detection has at most one kind of error."""
    detections, labels = frame.detections, frame.labels
    apart = np.linalg.norm(detections.center_m[:, None, :2] - labels.center_m[None, :, :2], axis=-1)  # (N, K)
    is_same = detections.class_index[:, None] == labels.class_index[None]
    label = np.full(len(detections), UNMATCHED, dtype=np.int64)
    is_taken = np.zeros(len(labels), dtype=np.bool_)
    for row in np.argsort(-detections.score, kind="stable").tolist():
        reach = np.where(is_same[row] & ~is_taken, apart[row], np.inf)
        if len(labels) and reach.min() < LOOSE_M:
            label[row] = int(reach.argmin())
            is_taken[label[row]] = True
    is_loose = label != UNMATCHED
    is_double = ~is_loose & ((apart < MATCH_M) & is_same & is_taken).any(axis=1)
    confusable = np.where(~is_same & ~is_taken & (labels.class_index >= 0), apart, np.inf)
    nearest = confusable.min(axis=1, initial=np.inf)
    is_other = ~is_loose & ~is_double & (nearest < MATCH_M)
    other = np.full(len(detections), UNMATCHED, dtype=np.int64)
    if is_other.any():
        other[is_other] = labels.class_index[confusable[is_other].argmin(axis=1)]
    return Judgement(
        is_loose=is_loose,
        label=label,
        is_other_class=is_other,
        other_class=other,
        is_double=is_double,
        is_invented=~(is_loose | is_double | is_other),
        is_missed=~is_taken & (labels.class_index >= 0),
    )


def error_costs(frames: Sequence[EvaluatedFrame]) -> dict[str, float | None]:
    """By kind of error, how much mAP (of the classes that occur) would rise if there were none of it.

    Each is put right alone, as TIDE does for pictures (Bolya et al., ECCV 2020), with centre distances for overlap.
    Gains do not add up. None without labels.
    """
    judged = [(frame, judge(frame)) for frame in frames]
    before = evaluate_detection(frames).mean_ap_present
    if np.isnan(before):
        return dict.fromkeys(_REPAIRS)
    return {
        name: round(evaluate_detection([repair(*one) for one in judged]).mean_ap_present - before, 6)
        for name, repair in _REPAIRS.items()
    }


def _place(frame: EvaluatedFrame, judged: Judgement) -> EvaluatedFrame:
    center = frame.detections.center_m.copy()
    center[judged.is_loose] = frame.labels.center_m[judged.label[judged.is_loose]]
    return replace(frame, detections=replace(frame.detections, center_m=center))


def _class(frame: EvaluatedFrame, judged: Judgement) -> EvaluatedFrame:
    classes = np.where(judged.is_other_class, judged.other_class, frame.detections.class_index)
    return replace(frame, detections=replace(frame.detections, class_index=classes))


def _without(frame: EvaluatedFrame, is_error: Bool) -> EvaluatedFrame:
    return replace(frame, detections=frame.detections.rows(~is_error))


def _nothing_missed(frame: EvaluatedFrame, judged: Judgement) -> EvaluatedFrame:
    return replace(frame, labels=frame.labels.rows(~judged.is_missed))


_REPAIRS: Final[Mapping[str, Callable[[EvaluatedFrame, Judgement], EvaluatedFrame]]] = {
    "in the wrong place": _place,
    "wrong class": _class,
    "doubles": lambda frame, judged: _without(frame, judged.is_double),
    "nothing there": lambda frame, judged: _without(frame, judged.is_invented),
    "missed": _nothing_missed,
}
