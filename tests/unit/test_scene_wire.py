"""Scenes as bytes and back, and what is refused."""

import msgspec
import numpy as np
import pytest

from perception.core.errors import QueueError
from perception.queues.samples import sample_result
from perception.sources.synthetic import SyntheticSource
from perception.viewer.drive_scenes import Part, drive_scenes
from perception.viewer.live_scenes import KEPT, SceneJoiner
from perception.viewer.scene_wire import IMAGE_WIDTH_PX, MAX_POINTS, SensorPayload, decode_scene, encode_scene
from perception.viewer.scenes import Scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return list(drive_scenes(SyntheticSource(seed=3, duration_s=0.5), Part()))[3]


def test_a_scene_comes_back_smaller_but_in_its_place(scene: Scene) -> None:
    run_id, back = decode_scene(encode_scene(scene, "run-7"))
    assert (run_id, back.sequence, back.reference_ns) == ("run-7", scene.sequence, scene.reference_ns)
    step = -(-len(scene.lidar_m) // MAX_POINTS)
    assert len(back.lidar_m) <= MAX_POINTS
    np.testing.assert_allclose(back.lidar_m, scene.lidar_m[::step], atol=0.0051)
    np.testing.assert_allclose(back.intensity, scene.intensity[::step], atol=1 / 255 + 1e-6)
    np.testing.assert_array_equal(back.radial_mps, scene.radial_mps)
    for (view, image), (old, _) in zip(back.cameras, scene.cameras, strict=True):
        assert image.shape[1] <= IMAGE_WIDTH_PX
        assert view.sensor == old.sensor
        np.testing.assert_array_equal(view.reference_SE3_camera, old.reference_SE3_camera)
        np.testing.assert_array_equal(view.camera.intrinsic, old.camera.intrinsic)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("lidar_cm", b"12345"),
        ("intensity", b"1"),
        ("radar", np.full(7, np.nan, dtype="<f4").tobytes()),
        ("world_SE3_ego", [float("nan")] * 16),
        ("world_SE3_ego", [0.0] * 15),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(scene: Scene, field: str, value: object) -> None:
    fields = msgspec.msgpack.decode(encode_scene(scene, "run"))
    with pytest.raises(QueueError, match="holds no sensors"):
        decode_scene(msgspec.msgpack.encode({**fields, field: value}))


@pytest.mark.parametrize(("field", "value"), [("jpeg", b"no image"), ("intrinsic", [0.0] * 9), ("width_px", 0)])
def test_a_camera_that_is_none_is_refused(scene: Scene, field: str, value: object) -> None:
    fields = msgspec.msgpack.decode(encode_scene(scene, "run"))
    fields["cameras"][0][field] = value
    with pytest.raises(QueueError, match="holds no sensors"):
        decode_scene(msgspec.msgpack.encode(fields))


def test_bytes_that_are_no_payload_are_refused(scene: Scene) -> None:
    whole = encode_scene(scene, "run")
    for data in (b"", b"\xc1", whole[:-1], msgspec.msgpack.encode([1, 2])):
        with pytest.raises(QueueError, match="holds no sensors"):
            decode_scene(data)
    assert msgspec.msgpack.decode(whole, type=SensorPayload).run_id == "run"


def test_results_and_scenes_meet_whoever_comes_first(scene: Scene) -> None:
    joiner, rng = SceneJoiner(), np.random.default_rng(0)
    result = sample_result(rng, sequence=scene.sequence, run_id="a")
    assert joiner.result(result) is None
    assert joiner.sensors("b", scene) is None, "of another run"
    joined = joiner.sensors("a", scene)
    assert joined is not None
    assert joined.result is result
    other = sample_result(rng, sequence=scene.sequence, run_id="b")
    joined = joiner.result(other)
    assert joined is not None
    assert joined.lidar_m is scene.lidar_m
    assert joiner.result(other) is None, "each scene is joined once"


def test_what_finds_no_other_half_is_forgotten(scene: Scene) -> None:
    joiner, rng = SceneJoiner(), np.random.default_rng(0)
    for sequence in range(scene.sequence, scene.sequence + KEPT + 1):
        joiner.result(sample_result(rng, sequence=sequence, run_id="a", detections=1))
    assert joiner.sensors("a", scene) is None
