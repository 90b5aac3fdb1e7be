"""The list-backed source."""

import numpy as np
import pytest

from perception.core.messages import EgoState
from perception.core.ports import Source
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from tests.unit.nuscenes_roots import small_rig


def test_messages_come_by_arrival_and_again_on_the_next_lap() -> None:
    late = EgoState(capture_ns=0, arrival_ns=30, world_SE3_ego=np.eye(4))
    early = EgoState(capture_ns=10, arrival_ns=20, world_SE3_ego=np.eye(4))
    source = MemorySource(small_rig(), [late, early])
    assert list(source.messages()) == [early, late]
    assert list(source.messages()) == [early, late]


def test_labels_are_found_at_their_time_only() -> None:
    made = SyntheticSource(duration_s=0.6, rig=small_rig())
    labels = {time: truth for time in made.label_times_ns if (truth := made.labels(time)) is not None}
    source = MemorySource(made.rig, made.messages(), labels, drive_id="memory/copy")
    assert isinstance(source, Source)
    assert source.drive_id == "memory/copy"
    assert source.label_times_ns == made.label_times_ns
    assert source.labels(made.label_times_ns[0]) is labels[made.label_times_ns[0]]
    assert source.labels(made.label_times_ns[0] + 1) is None


def test_labels_filed_under_another_time_are_refused() -> None:
    made = SyntheticSource(duration_s=0.1, rig=small_rig())
    truth = made.labels(made.label_times_ns[0])
    assert truth is not None
    with pytest.raises(ValueError, match="refer to"):
        MemorySource(made.rig, [], {1: truth})
