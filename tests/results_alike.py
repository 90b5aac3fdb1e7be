"""Whether two runs of a drive said the same."""

from collections.abc import Sequence

import numpy as np

from perception.core.results import PerceptionResult

TOLERANCE = 1e-4


def assert_same_results(
    ours: Sequence[PerceptionResult], theirs: Sequence[PerceptionResult], *, tolerance: float = TOLERANCE
) -> None:
    """Equal sequences, sensors and detections, numbers to `tolerance`; boxes are matched one to one."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.sequence, one.reference_ns) == (other.sequence, other.reference_ns)
        assert one.sensors == other.sensors
        assert one.provenance.model_hash == other.provenance.model_hash
        a, b = one.detections, other.detections
        assert len(a) == len(b), one.sequence
        left = list(range(len(b)))
        for i in range(len(a)):
            distance = np.abs(b.center_m[left] - a.center_m[i]).max(axis=1) + np.abs(b.score[left] - a.score[i])
            distance = distance + 1e3 * (b.class_index[left] != a.class_index[i])
            j = left.pop(int(distance.argmin()))
            for name in ("score", "center_m", "size_m", "velocity_mps"):
                np.testing.assert_allclose(
                    getattr(a, name)[i], getattr(b, name)[j], atol=tolerance, rtol=tolerance, err_msg=name
                )
        np.testing.assert_allclose(one.path_hints.waypoints_m, other.path_hints.waypoints_m, atol=1e-3, rtol=tolerance)
