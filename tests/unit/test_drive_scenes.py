"""Which scenes of a drive are drawn, and what is in them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from perception.core.errors import UsageError
from perception.core.results import PerceptionResult
from perception.queues.samples import sample_result
from perception.sources.synthetic import SyntheticSource
from perception.viewer.drive_scenes import Part, drive_scenes


@pytest.fixture(scope="module")
def drive() -> SyntheticSource:
    return SyntheticSource(seed=3, duration_s=1.5)


def _results(drive: SyntheticSource, drive_id: str) -> Iterator[PerceptionResult]:
    rng = np.random.default_rng(0)
    for sequence, time_ns in enumerate(drive.label_times_ns):
        yield replace(sample_result(rng, sequence=sequence), reference_ns=time_ns, drive_id=drive_id, sensors=())


def test_each_sweep_is_a_scene_with_all_sensors_and_labels_at_their_times(drive: SyntheticSource) -> None:
    scenes = list(drive_scenes(drive, Part()))
    times = [scene.reference_ns for scene in scenes]
    assert times == sorted(times)
    assert set(drive.label_times_ns) <= set(times)
    assert {scene.reference_ns for scene in scenes if scene.labels is not None} == set(drive.label_times_ns)
    middle = scenes[len(scenes) // 2]
    assert len(middle.cameras) == 6
    assert len(middle.lidar_m) == len(middle.intensity) > 1000
    assert len(middle.radar_m) == len(middle.radial_mps) > 0
    np.testing.assert_allclose(np.linalg.norm(middle.radar_direction, axis=1), 1.0, atol=1e-5)


def test_a_part_is_every_nth_scene_of_a_stretch(drive: SyntheticSource) -> None:
    times = [scene.reference_ns for scene in drive_scenes(drive, Part())]
    strided = [scene.reference_ns for scene in drive_scenes(drive, Part(stride=4))]
    assert strided == times[::4]
    cut = [scene.reference_ns for scene in drive_scenes(drive, Part(start_s=0.5, duration_s=0.5))]
    assert cut == [time for time in times if cut[0] <= time <= cut[-1]]
    assert 0.4e9 < cut[-1] - cut[0] < 0.5e9


def test_with_results_the_scenes_are_theirs(drive: SyntheticSource) -> None:
    scenes = list(drive_scenes(drive, Part(), _results(drive, drive.drive_id)))
    assert [scene.reference_ns for scene in scenes] == list(drive.label_times_ns)
    assert all(scene.result is not None and scene.result.sequence == scene.sequence for scene in scenes)
    assert all(scene.cameras == [] for scene in scenes), "a result that used no sensors shows none"


def test_results_of_another_drive_are_refused(drive: SyntheticSource) -> None:
    with pytest.raises(UsageError, match="'elsewhere'; this is 'synthetic/3'"):
        list(drive_scenes(drive, Part(), _results(drive, "elsewhere")))
