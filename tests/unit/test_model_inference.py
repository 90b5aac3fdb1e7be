"""The model as the service uses it."""

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from perception.config.schema import ModelConfig
from perception.core.cameras import CameraModel
from perception.core.errors import ModelError, PayloadError
from perception.core.messages import Command, Signal
from perception.core.stages import FuseRequest
from perception.models.bench import STAGES, bench_model, surround_request
from perception.models.checkpoint import load_model
from perception.models.image_header import image_size
from perception.models.inference import InferenceModel, ego_vector
from perception.models.network import build_network
from perception.models.tensors import EGO_FIELDS
from tests.model_samples import TINY, noise_cloud


@pytest.fixture(scope="module")
def model() -> InferenceModel:
    return load_model("tiny", ModelConfig(score_threshold=0.0))


def nothing(request: FuseRequest) -> FuseRequest:
    return replace(request, cameras=(), lidars=(), lidar_age_ns=(), radar_age_ns=None)


def test_a_bundle_goes_through_and_crosses_processes(model: InferenceModel) -> None:
    rng = np.random.default_rng(0)
    request = replace(surround_request(), keep_dense=True)
    image = rng.integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    data = bytes(cv2.imencode(".jpg", image)[1].tobytes())
    camera = model.encode_camera(data, request.cameras[0].camera)
    lidar = model.encode_lidar(noise_cloud(rng, 30_000), rng.random(30_000, dtype=np.float32))
    radar = model.encode_radar(
        noise_cloud(rng, 200), np.zeros(200, np.float32), np.zeros((200, 2), np.float32), np.zeros(200, np.float32)
    )
    for features in (camera, lidar, radar):
        assert features.is_contiguous()
        assert features.dtype == torch.float32
    sent = [torch.from_numpy(pickle.loads(pickle.dumps(one.numpy()))) for one in (camera, lidar, radar)]
    first = model.fuse(request, [camera] * 6, [lidar], radar)
    second = model.fuse(request, [sent[0]] * 6, [sent[1]], sent[2])
    np.testing.assert_array_equal(first.detections.score, second.detections.score)
    np.testing.assert_array_equal(first.detections.center_m, second.detections.center_m)
    np.testing.assert_array_equal(first.dense["heatmap"], second.dense["heatmap"])
    assert len(first.detections) > 50
    assert np.all(np.diff(first.detections.score) <= 0)
    assert first.path_hints.waypoints_m.shape == (TINY.path_modes, TINY.path_steps, 2)
    assert first.dense["heatmap"].shape == (10, TINY.bev_cells, TINY.bev_cells)
    assert not model.fuse(surround_request(), [camera] * 6, [lidar], radar).dense


def test_nothing_at_all_still_gives_a_finite_result(model: InferenceModel) -> None:
    output = model.fuse(nothing(surround_request()), [], [], None)
    assert np.all(np.isfinite(output.path_hints.waypoints_m))
    assert np.all(np.isfinite(output.detections.center_m))


def test_empty_clouds_are_sensors_that_saw_nothing(model: InferenceModel) -> None:
    none = np.zeros((0, 3), dtype=np.float32)
    lidar = model.encode_lidar(none, none[:, 0])
    radar = model.encode_radar(none, none[:, 0], none[:, :2])
    assert torch.isfinite(lidar).all()
    assert torch.isfinite(radar).all()
    request = replace(surround_request(), cameras=())
    assert np.all(np.isfinite(model.fuse(request, [], [lidar], radar).detections.score))


def test_two_lidars_are_more_than_one(model: InferenceModel) -> None:
    rng = np.random.default_rng(1)
    first, second = (model.encode_lidar(noise_cloud(rng, 5000), np.zeros(5000, np.float32)) for _ in range(2))
    request = replace(nothing(surround_request()), lidars=("top", "front"), lidar_age_ns=(0, 0), keep_dense=True)
    both = model.fuse(request, [], [first, second], None).dense["heatmap"]
    swapped = model.fuse(request, [], [second, first], None).dense["heatmap"]
    alone = model.fuse(replace(request, lidars=("top",), lidar_age_ns=(0,)), [], [first], None).dense["heatmap"]
    np.testing.assert_array_equal(both, swapped)
    assert np.abs(both - alone).max() > 1e-4


def test_age_of_a_sensor_is_seen(model: InferenceModel) -> None:
    rng = np.random.default_rng(2)
    lidar = model.encode_lidar(noise_cloud(rng, 5000), np.zeros(5000, np.float32))
    request = replace(nothing(surround_request()), lidars=("top",), lidar_age_ns=(0,), keep_dense=True)
    fresh = model.fuse(request, [], [lidar], None).dense["heatmap"]
    stale = model.fuse(replace(request, lidar_age_ns=(400_000_000,)), [], [lidar], None).dense["heatmap"]
    assert np.abs(fresh - stale).max() > 1e-5


def test_features_that_do_not_fit_are_refused(model: InferenceModel) -> None:
    request = nothing(surround_request())
    with pytest.raises(ModelError, match="0 cameras and 0 lidars, but there are features of 0 and 1"):
        model.fuse(request, [], [torch.zeros(model.bev_shape)], None)
    with pytest.raises(ModelError, match="radar features are"):
        model.fuse(request, [], [], torch.zeros(3, 3))


def test_a_broken_image_is_a_payload_error(model: InferenceModel) -> None:
    camera = CameraModel(width_px=64, height_px=64, intrinsic=np.diag([50.0, 50.0, 1.0]))
    with pytest.raises(PayloadError):
        model.encode_camera(b"\xff\xd8\xff", camera)


def test_the_ego_vector_names_its_columns() -> None:
    request = replace(surround_request(), speed_mps=7.0, command=Command.RIGHT, signal=Signal.RED, speed_limit_mps=None)
    values = dict(zip(EGO_FIELDS, ego_vector(request).tolist(), strict=True))
    assert {name for name, value in values.items() if value == 1.0} == {"command_right", "signal_red"}
    assert values["speed_mps"] == 7.0
    request = replace(request, speed_limit_mps=13.0, route_distance_m=0.0)
    values = dict(zip(EGO_FIELDS, ego_vector(request).tolist(), strict=True))
    assert (values["speed_limit_mps"], values["speed_limit_is_known"]) == (13.0, 1.0)
    assert (values["route_distance_m"], values["route_distance_is_known"]) == (0.0, 1.0)
    values = dict(zip(EGO_FIELDS, ego_vector(replace(request, route_target_m=np.array([21.0, -4.0]))), strict=True))
    assert [values[f"route_target_{name}"] for name in ("x_m", "y_m", "is_known")] == [21.0, -4.0, 1.0]


def test_an_untrained_model_is_sure_of_nothing() -> None:
    untrained = InferenceModel(build_network(TINY), trained=False)
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (3, 128, 352), dtype=np.uint8) for _ in range(6)]
    cameras = [untrained.encode_image(image) for image in images]
    lidar = untrained.encode_lidar(noise_cloud(rng, 30_000), rng.random(30_000, dtype=np.float32))
    output = untrained.fuse(replace(surround_request(), radar_age_ns=None), cameras, [lidar], None)
    assert (output.detections.score < 0.15).all()  # how many are above the threshold is a matter of the seed


def test_the_benchmark_accounts_for_every_stage() -> None:
    threads = torch.get_num_threads()
    report = bench_model(TINY, threads=1, frames=2)
    assert tuple(report["stage_ms"]) == STAGES
    assert 0 < report["latency_ms"]["min"] <= report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert 4 < report["gflop"] < 7
    assert torch.get_num_threads() == threads


@pytest.mark.data
def test_real_images_of_every_format_are_encoded(model: InferenceModel, drive_data: Path) -> None:
    seen = 0
    for path in sorted(drive_data.glob("*/**/image*/*.png")) + sorted(drive_data.glob("*/**/*CAM_*.jpg"))[:12]:
        data = path.read_bytes()
        width, height = image_size(data)
        camera = CameraModel(width_px=width, height_px=height, intrinsic=np.diag([500.0, 500.0, 1.0]))
        features = model.encode_camera(data, camera)
        assert tuple(features.shape) == model.camera_shape
        assert torch.isfinite(features).all()
        with pytest.raises(PayloadError):
            model.encode_camera(data[: len(data) * 2 // 3], camera)
        seen += 1
    assert seen > 5
