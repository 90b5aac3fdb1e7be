"""What is in a recording of the viewer, read back with Rerun's own reader."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from perception.core.results import NO_TRACK, PerceptionResult
from perception.core.taxonomy import CLASSES
from perception.queues.samples import sample_result
from perception.sources.synthetic import SyntheticSource
from perception.viewer import colors
from perception.viewer.drive_scenes import Part, drive_scenes
from perception.viewer.scenes import Scene
from perception.viewer.wires import detection_corners, wire_strips

if importlib.util.find_spec("rerun") is None:
    pytest.skip("needs rerun-sdk (pip install 'perception[viewer]')", allow_module_level=True)

from rerun.chunk import RrdReader

from perception.viewer.rerun_recording import open_recording
from perception.viewer.rerun_scene import SceneStyle
from perception.viewer.rerun_stage import Stage

Read = Callable[[str, str], list[Any]]
STYLE = SceneStyle(max_points=5000, min_score=0.5)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Two scenes; the result of the first has 40 boxes and missing sensors."""
    first, second = list(drive_scenes(SyntheticSource(seed=3, duration_s=0.5), Part()))[:2]
    result = replace(
        sample_result(np.random.default_rng(1), sequence=first.sequence, detections=40),
        reference_ns=first.reference_ns, world_SE3_ego=first.world_SE3_ego,
    )  # fmt: skip
    return [replace(first, result=result), second]


@pytest.fixture(scope="module")
def read(scenes: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Gives the values of a component at a path, one a row, in the order of time."""
    path: Path = tmp_path_factory.mktemp("rrd") / "drive.rrd"
    with open_recording(save=path, data_url=None) as recording:
        stage = Stage(recording, name="test", frame="ego", style=STYLE)
        stage.arrange(tuple(view.sensor for view, _ in scenes[0].cameras), has_results=True)
        for scene in scenes:
            stage.log.scene(scene)
    columns: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    for chunk in RrdReader(path).stream():
        rows = chunk.to_record_batch().to_pydict()
        times = rows.get("sequence", [-1] * chunk.num_rows)
        for name, cells in rows.items():
            columns.setdefault((chunk.entity_path, name), []).extend(zip(times, cells, strict=True))

    def values(entity: str, component: str) -> list[Any]:
        return [value for _, value in sorted(columns[entity, component], key=lambda row: row[0])]

    return values


def _shown(scenes: list[Scene]) -> PerceptionResult:
    result = scenes[0].result
    assert result is not None
    return replace(result, detections=result.detections.rows(result.detections.score >= STYLE.min_score))


def _rgba(color: colors.Color) -> int:
    red, green, blue = color
    return (red << 24) + (green << 16) + (blue << 8) + 255


def test_boxes_are_where_they_were_detected_in_the_colour_of_their_class(read: Read, scenes: list[Scene]) -> None:
    found = _shown(scenes).detections
    assert 0 < len(found) < 40
    path = "/world/ego/detections"
    np.testing.assert_allclose(read(path, "Boxes3D:centers")[0], found.center_m)
    np.testing.assert_allclose(np.array(read(path, "Boxes3D:half_sizes")[0]) * 2, found.size_m, rtol=1e-6)
    x, y, z, w = np.array(read(path, "Boxes3D:quaternions")[0]).T
    np.testing.assert_allclose(np.cos(2 * np.arctan2(z, w) - found.yaw_rad), 1.0, atol=1e-5)
    assert not x.any()
    assert not y.any()
    assert read(path, "Boxes3D:colors")[0] == [_rgba(colors.CLASS_COLORS[i]) for i in found.class_index]


def test_labels_tell_class_score_and_track(read: Read, scenes: list[Scene]) -> None:
    found = _shown(scenes).detections
    first = read("/world/ego/detections", "Boxes3D:labels")[0][0]
    name = f"{CLASSES[found.class_index[0]]} {found.score[0]:.2f}"
    assert first == (name if found.track_id[0] == NO_TRACK else f"{name} #{found.track_id[0]}")


def test_arrows_are_velocities(read: Read, scenes: list[Scene]) -> None:
    found = _shown(scenes).detections
    vectors = np.array(read("/world/ego/detections/velocity", "Arrows3D:vectors")[0])
    np.testing.assert_allclose(vectors[:, :2], found.velocity_mps)
    radar = np.array(read("/world/ego/radar/doppler", "Arrows3D:vectors")[0])
    np.testing.assert_allclose(np.linalg.norm(radar, axis=1), np.abs(scenes[0].radial_mps) / 2, atol=1e-4)


def test_lidar_points_are_thinned_evenly(read: Read, scenes: list[Scene]) -> None:
    points = np.array(read("/world/ego/lidar", "Points3D:positions")[0])
    step = -(-len(scenes[0].lidar_m) // STYLE.max_points)
    np.testing.assert_array_equal(points, scenes[0].lidar_m[::step])


def test_images_have_the_boxes_that_project_into_them(read: Read, scenes: list[Scene]) -> None:
    view, image = scenes[0].cameras[0]
    path = f"/cameras/{view.sensor}"
    blob = np.frombuffer(bytes(read(path, "EncodedImage:blob")[0][0]), np.uint8)
    shown = cv2.imdecode(blob, cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape == image.shape
    corners = detection_corners(_shown(scenes).detections)
    wanted = [
        (strip + 0.5) * image.shape[1] / view.camera.width_px for box in corners for strip in wire_strips(view, box)
    ]
    strips = read(f"{path}/boxes", "LineStrips2D:strips")[0]
    assert len(strips) == len(wanted) > 0
    for strip, expected in zip(strips, wanted, strict=True):
        np.testing.assert_allclose(strip, expected, rtol=1e-5, atol=1e-3)


def test_the_world_begins_where_the_ego_is_first(read: Read, scenes: list[Scene]) -> None:
    first, second = (np.array(place[0]) for place in read("/world/ego", "Transform3D:translation")[::2])
    before, after = scenes[0].world_SE3_ego, scenes[1].world_SE3_ego
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(first, 0.0, atol=1e-6)
    moved = np.linalg.norm(after[:3, 3] - before[:3, 3])
    assert np.linalg.norm(second) == pytest.approx(moved, rel=1e-4)


def test_labels_are_gone_where_the_drive_has_none(read: Read, scenes: list[Scene]) -> None:
    assert scenes[0].labels is not None
    assert scenes[1].labels is None
    assert len(read("/world/truth", "LineStrips3D:strips")[0]) == 4 * len(scenes[0].labels)
    assert read("/world/truth", "Clear:is_recursive")[-1] == [False]


def test_figures_of_the_service_are_time_series(read: Read, scenes: list[Scene]) -> None:
    assert read("/plots/latency_ms/encode", "Scalars:scalars")[-1] == [21.0]
    assert read("/plots/sync_offset_ms/camera_front", "Scalars:scalars")[-1] == [-12.345678]
    assert read("/plots/sensor_hz/lidar_top", "Scalars:scalars")[-1] == [0.0]
    assert read("/plots/dropped/late", "Scalars:scalars")[-1] == [2.0]
    assert read("/plots/count/detections", "Scalars:scalars")[-1] == [len(_shown(scenes).detections)]
