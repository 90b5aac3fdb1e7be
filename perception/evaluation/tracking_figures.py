"""Figures of one CLEAR association: accuracy, precision, switches, how long objects are lost."""

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.detection import json_number
from perception.evaluation.tracking_clear import ClearEvents

MOSTLY_TRACKED: Final = 0.8
MOSTLY_LOST: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearMetrics:
    """Figures at one score threshold, under the names of the nuscenes-devkit; nan where one is not defined.

    gt: boxes of objects; tp: boxes found by the track that the object had before, or by its first; ids: found by
    another one; fn: missed; fp: boxes of tracks that follow nothing. recall, precision: shares found, `ids` included.
    mota: 1 - (fn + fp + ids) / gt. motar: 1 - (fn + fp + ids - (gt - tp)) / tp. motp: mean distance (m).
    faf: false positives in 100 frames. mt, ml: objects found in at least 80 %, in less than 20 % of their frames.
    frag: times an object is lost and found again. tid, lgd: mean time to the first find and mean longest gap (s), both
    of the objects that are found at all.
    """

    recall: float
    precision: float
    motar: float
    gt: float
    mota: float
    motp: float
    mt: float
    ml: float
    faf: float
    tp: float
    fp: float
    fn: float
    ids: float
    frag: float
    tid: float
    lgd: float

    def to_dict(self) -> dict[str, float | None]:
        """The same as JSON has it: nan becomes null."""
        return {field.name: json_number(getattr(self, field.name)) for field in fields(self)}


def clear_metrics(events: ClearEvents, frame_period_s: float) -> ClearMetrics:
    """Figures of all objects of an association; durations count frames of `frame_period_s`."""
    gt, found = len(events.object), int(events.is_found.sum())
    ids = int(events.is_switch.sum())
    tp, fn, fp = found - ids, gt - found, events.num_tracked_boxes - found
    share, fragments, delay, gap = _track_figures(events)
    is_followed = share > 0
    # In the form of the nuscenes-devkit (tracking/metrics.py), so that it rounds alike.
    excess = fn + ids + fp - (1 - _ratio(tp, gt)) * gt
    return ClearMetrics(
        recall=_ratio(found, gt),
        precision=_ratio(found, found + fp),
        motar=1 - _ratio(excess, tp),
        gt=gt,
        mota=1 - _ratio(fn + ids + fp, gt),
        motp=_ratio(float(np.nansum(events.distance_m)), found),
        mt=int(np.sum(share >= MOSTLY_TRACKED)),
        ml=int(np.sum(share < MOSTLY_LOST)),
        faf=100 * _ratio(fp, events.num_frames),
        tp=tp,
        fp=fp,
        fn=fn,
        ids=ids,
        frag=int(fragments.sum()),
        tid=_ratio(frame_period_s * float(delay[is_followed].sum()), int(is_followed.sum())),
        lgd=_ratio(frame_period_s * float(gap[is_followed].sum()), int(is_followed.sum())),
    )


def _track_figures(events: ClearEvents) -> tuple[NDArray[np.float64], ...]:
    """Of each object: share of its frames found, times lost and found again, frames to the first find, longest gap."""
    order = np.argsort(events.object, kind="stable")
    edges = np.flatnonzero(np.diff(events.object[order], prepend=-1, append=-1))
    rows = [_one_track(events, order[begin:end]) for begin, end in pairwise(edges.tolist())]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return tuple(columns.T)


def _one_track(events: ClearEvents, rows: NDArray[np.int64]) -> tuple[float, int, int, int]:
    frame, is_found = events.frame[rows], events.is_found[rows]
    found = np.flatnonzero(is_found)
    if not len(found):
        return 0.0, 0, 0, 0
    between = is_found[found[0] : found[-1] + 1]
    fragments = int(np.sum(between[:-1] & ~between[1:]))
    # A frame in which the object is not labelled counts as one in which it is not found.
    marks = np.concatenate([[frame[0] - 1], frame[is_found], [frame[-1] + 1]])
    return float(np.mean(is_found)), fragments, int(frame[found[0]] - frame[0]), int(np.diff(marks).max() - 1)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
