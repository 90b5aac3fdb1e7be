"""What a GPU prepares for itself equals what the host prepares; shown on CPU tensors."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perception.config.schema import ModelConfig
from perception.core.cameras import CameraModel
from perception.core.errors import PayloadError
from perception.core.geometry import se3
from perception.core.messages import CameraFrame, LidarSweep, RadarScan, SweepMotion
from perception.core.motion import EgoMotion, MotionSource
from perception.core.stages import CameraRequest, CameraView, EncodeRequest, LidarRequest, RadarRequest
from perception.models.backends.torch_backend import TorchBackend
from perception.models.bench_frames import surround_request
from perception.models.checkpoint import load_network
from perception.models.device_front import DeviceFront
from perception.models.device_geometry import DeviceGeometry
from perception.models.device_images import DeviceImages
from perception.models.device_points import DevicePoints, pack_rows
from perception.models.geometry import ViewGeometry
from perception.models.inference import InferenceModel
from perception.models.preprocess import decode_image
from perception.pipeline.preprocess import preprocess_lidar
from perception.pipeline.stages import Stages
from sim.rig import load_rig
from tests.model_samples import TINY, noise_cloud
from tests.training_scenes import rig_views

CPU = torch.device("cpu")
F32 = NDArray[np.float32]
REFERENCE_NS = 1_000_000_000_000


def picture(width: int, height: int, kind: str = ".jpg") -> bytes:
    """A smooth picture with edges in it."""
    v, u = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(u / 17 + c) + np.cos(v / (23 + c)) + (np.sin(u * v / 9e3) > 0) for c in range(3)]
    image = np.clip(np.stack(waves, axis=-1) * 50 + 110, 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(kind, image)[1].tobytes())


def pinhole(width: int, height: int) -> CameraModel:
    return CameraModel(width_px=width, height_px=height, intrinsic=np.diag([500.0, 500.0, 1.0]))


@pytest.mark.parametrize(
    ("width", "height", "kind"),
    [(1600, 900, ".jpg"), (1242, 375, ".png"), (1920, 1280, ".jpg"), (320, 160, ".png"), (800, 200, ".jpg")],
)
def test_images_are_within_a_level(width: int, height: int, kind: str) -> None:
    data = picture(width, height, kind)
    for image in (TINY.image, replace_size(TINY, 256, 704).image):
        expected = decode_image(data, image, width, height)
        found = DeviceImages(image, CPU).load(data, pinhole(width, height)).numpy()
        assert found.dtype == np.uint8
        off = np.abs(found.astype(int) - expected.astype(int))
        assert off.max() <= 1
        assert found.std() > 10


def replace_size(config: ModelConfig, height: int, width: int) -> ModelConfig:
    image = config.image.model_copy(update={"height_px": height, "width_px": width})
    return config.model_copy(update={"image": image})


def test_a_decoder_of_full_size_gives_nearly_the_same() -> None:
    """As nvJPEG would: whole pixels where the host takes a reduced JPEG."""
    data = picture(1600, 900)
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert whole is not None
    images = DeviceImages(TINY.image, CPU)
    found = images.resize(torch.from_numpy(whole[:, :, ::-1].copy()).permute(2, 0, 1), pinhole(1600, 900)).numpy()
    off = np.abs(found.astype(int) - decode_image(data, TINY.image, 1600, 900).astype(int))
    assert off.mean() < 2.0
    assert np.mean(off > 16) < 0.01


def test_broken_images_are_payload_errors() -> None:
    images = DeviceImages(TINY.image, CPU)
    data = picture(1600, 900)
    with pytest.raises(PayloadError):
        images.load(data[: len(data) // 2], pinhole(1600, 900))
    with pytest.raises(PayloadError, match="calibration"):
        images.load(data, pinhole(800, 450))


def turning(span_ns: int = 300_000_000, step_ns: int = 10_000_000) -> EgoMotion:
    """Fast around a bend: 25 m/s and 0.6 rad/s."""
    knots = REFERENCE_NS + np.arange(-span_ns, span_ns + 1, step_ns)
    times = (knots - REFERENCE_NS) * 1e-9
    track = np.tile(np.eye(4), (len(knots), 1, 1))
    angle = 0.6 * times
    track[:, 0, 0] = track[:, 1, 1] = np.cos(angle)
    track[:, 1, 0], track[:, 0, 1] = np.sin(angle), -np.sin(angle)
    track[:, 0, 3], track[:, 1, 3] = 25 / 0.6 * np.sin(angle), 25 / 0.6 * (1 - np.cos(angle))
    return replace(
        EgoMotion.standing(REFERENCE_NS),
        knots_ns=knots,
        reference_SE3_ego=track,
        velocity_mps=np.array([25.0, 0.0]),
        yaw_rate_radps=0.6,
        source=MotionSource.POSES,
    )


MOUNT = se3(np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), [0.9, 0.1, 1.8])


def sweep(rng: np.random.Generator, age_ns: int, motion: SweepMotion, count: int = 20_000) -> LidarSweep:
    points = noise_cloud(rng, count)
    points[::97] = np.nan
    offsets = np.sort(rng.integers(-100_000_000, 0, count)).astype(np.int32)
    return LidarSweep(
        sensor="lidar",
        capture_ns=REFERENCE_NS + age_ns,
        arrival_ns=REFERENCE_NS + age_ns,
        points_m=points,
        intensity=rng.uniform(-0.2, 1.4, count).astype(np.float32),
        point_offset_ns=offsets,
        motion=motion,
    )


@pytest.mark.parametrize("motion", [turning(), turning(step_ns=150_000_000), EgoMotion.standing(REFERENCE_NS)])
@pytest.mark.parametrize("kind", [SweepMotion.RAW, SweepMotion.COMPENSATED])
def test_points_are_within_a_millimetre(motion: EgoMotion, kind: SweepMotion) -> None:
    rng = np.random.default_rng(0)
    one = sweep(rng, -20_000_000, kind)
    for config in (TINY, capped(TINY, 3000)):
        request = LidarRequest(key="", sweep=one, ego_SE3_sensor=MOUNT, motion=motion)
        expected = preprocess_lidar(request, config)
        points, count = DevicePoints(config, CPU, lambda function: function).pack([one], MOUNT, motion)
        assert_same_points(points.numpy(), int(count), expected.points, int(expected.count))


def capped(config: ModelConfig, points: int, sweeps: int = 1) -> ModelConfig:
    lidar = config.lidar.model_copy(update={"max_points": points, "sweeps": sweeps})
    return config.model_copy(update={"lidar": lidar})


def assert_same_points(found: F32, count: int, expected: F32, expected_count: int) -> None:
    """Row for row; a point on the very border of the range may be in one only, which shifts those behind it."""
    assert found.shape == expected.shape
    assert count == expected_count
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    assert not found[count:].any()


def test_several_sweeps_are_one_cloud() -> None:
    rng = np.random.default_rng(1)
    config = capped(TINY, 4096, sweeps=3)
    sweeps = [sweep(rng, -20_000_000 - i * 50_000_000, SweepMotion.RAW, 9000) for i in range(3)]
    motion = turning()
    request = LidarRequest(key="", sweep=sweeps[0], ego_SE3_sensor=MOUNT, motion=motion, earlier=(sweeps[1], sweeps[2]))
    expected = preprocess_lidar(request, config)
    points, count = DevicePoints(config, CPU, lambda function: function).pack(sweeps, MOUNT, motion)
    assert int(count) == 4096
    assert_same_points(points.numpy(), int(count), expected.points, int(expected.count))


def test_an_empty_cloud_packs_to_nothing() -> None:
    packed, count = pack_rows(torch.full((8, 5), 1e9), torch.ones(8, dtype=torch.bool), 50.0, 4)
    assert int(count) == 0
    assert not packed.any()


@pytest.mark.parametrize("rig", ["nuscenes", "aimotive", "kitti", "tiny"])
def test_geometry_looks_where_the_host_looks(rig: str) -> None:
    models, poses = rig_views(load_rig(rig).sensor_rig)
    views = [
        CameraView(sensor="camera", camera=model, reference_SE3_camera=pose.astype(np.float32).astype(float), age_ns=0)
        for model, pose in zip(models, poses, strict=True)
    ]
    expected = ViewGeometry(TINY).build(views)
    found = DeviceGeometry(TINY, CPU, lambda function: function).build(views)
    np.testing.assert_allclose(found.rays.numpy(), expected.rays, atol=1e-5)
    np.testing.assert_array_equal(found.origin_m.numpy(), expected.origin_m)
    is_valid = found.lift_valid.numpy()
    is_same = (is_valid == expected.lift_valid) & ((found.lift_camera.numpy() == expected.lift_camera) | ~is_valid)
    assert np.mean(~is_same) < 1e-3
    both = is_same & is_valid
    assert both.mean() > 0.2
    assert np.abs(found.lift_uv.numpy() - expected.lift_uv)[both].max() < 1e-4
    np.testing.assert_allclose(found.lift_depth_m.numpy()[both], expected.lift_depth_m[both], rtol=1e-5)


def test_no_camera_at_all_has_a_geometry() -> None:
    found = DeviceGeometry(TINY, CPU, lambda function: function).build([])
    assert found.rays.shape == (0, 8 * 22, 3)
    assert not found.lift_valid.any()


def test_stages_on_the_device_say_what_stages_on_the_host_say() -> None:
    network, _ = load_network("tiny")
    host = InferenceModel(network, trained=True)
    backend = TorchBackend(network)
    device = InferenceModel(network, trained=True, backend=backend, front=DeviceFront(TINY, backend))
    rng = np.random.default_rng(2)
    request = replace(surround_request(), reference_ns=REFERENCE_NS, lidars=("lidar",), keep_dense=True)
    frames = [
        CameraFrame(sensor=view.sensor, capture_ns=REFERENCE_NS, arrival_ns=REFERENCE_NS, data=picture(1600, 900))
        for view in request.cameras
    ]
    frames[2] = replace(frames[2], data=frames[2].data[:1000])
    scan = RadarScan(
        sensor="radar",
        capture_ns=REFERENCE_NS,
        arrival_ns=REFERENCE_NS,
        points_m=noise_cloud(rng, 50),
        rcs_dbsm=np.zeros(50, np.float32),
        radial_mps=np.zeros(50, np.float32),
        compensated_mps=None,
        is_valid=np.ones(50, np.bool_),
    )
    requests: list[EncodeRequest] = [
        *(CameraRequest(key="", frame=f, camera=v.camera) for f, v in zip(frames, request.cameras, strict=True)),
        LidarRequest(key="", sweep=sweep(rng, 0, SweepMotion.RAW), ego_SE3_sensor=MOUNT, motion=turning()),
        RadarRequest(key="", scans=(scan,), ego_SE3_sensor=(MOUNT,), motion=turning()),
    ]
    outputs = []
    for model in (host, device):
        stages = Stages(model)
        outputs.append(stages.fuse(request, [stages.encode(one) for one in requests]))
    assert list(outputs[0].failures) == list(outputs[1].failures) == [request.cameras[2].sensor]
    # A level in a pixel, a point that falls into the next cell: no more than that.
    assert np.abs(outputs[0].dense["heatmap"] - outputs[1].dense["heatmap"]).max() < 0.05
    assert np.abs(outputs[0].path_hints.waypoints_m - outputs[1].path_hints.waypoints_m).max() < 0.05
