"""Nothing in a frame asks the device a question, and nothing reaches for a tensor on another device.

Shown without a GPU: tensors of torch's `meta` device have shapes but no values. Whatever needs a value on the host
(`item`, `nonzero`, a comparison in an `if`), or mixes in a tensor that was made on the CPU, raises.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.geometry import se3
from perception.core.motion import EgoMotion
from perception.models.backends.transfer import answer_of
from perception.models.bench_frames import surround_request
from perception.models.blocks import speed_up
from perception.models.device_geometry import DeviceGeometry
from perception.models.device_images import DeviceImages
from perception.models.device_points import DevicePoints, raw_clouds
from perception.models.encoders.camera import STRIDE
from perception.models.lenses import CAMERA_FIELDS
from perception.models.network import PerceptionNetwork
from perception.models.tensors import EGO_FIELDS, FusionInputs
from tests.unit.test_sweep_history import sweep

THERE = torch.device("meta")
SMALL = ModelConfig.model_validate({"lidar": {"max_points": 4096, "sweeps": 3}})
SMALL_BASE = SMALL.model_copy(
    update={"image": SMALL.image.model_copy(update={"backbone": "resnet50", "height_px": 64, "width_px": 96})}
)
Function = Callable[..., tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none on the meta device."""
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())


def there(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=THERE)


def network_there(config: ModelConfig) -> PerceptionNetwork:
    network = PerceptionNetwork(config).eval().requires_grad_(False)
    speed_up(network)
    return network.to(THERE)


@pytest.mark.parametrize("config", [SMALL, SMALL_BASE])
def test_encoders_wait_for_nothing(config: ModelConfig) -> None:
    network, image = network_there(config), config.image
    camera = network.encode_cameras(there(2, 3, image.height_px, image.width_px, dtype=torch.uint8))
    lidar = network.encode_lidar(there(1, config.lidar.max_points, 5), there(1, dtype=torch.int64))
    radar = network.encode_radar(there(1, config.radar.max_points, 7), there(1, dtype=torch.int64))
    assert {one.device for one in (camera, lidar, radar)} == {THERE}
    assert camera.shape == (2, (image.height_px // STRIDE) * (image.width_px // STRIDE), config.width)


def test_fusion_waits_for_nothing() -> None:
    answer = answer_of(network_there(SMALL).fuse(inputs_there(SMALL)))
    for field in fields(answer):
        tensor = getattr(answer, field.name)
        assert tensor.device == THERE, field.name
        assert tensor.dtype in (torch.float32, torch.int64), field.name


def inputs_there(config: ModelConfig, cameras: int = 2, lidars: int = 1) -> FusionInputs:
    tokens = (config.image.height_px // STRIDE) * (config.image.width_px // STRIDE)
    cells, width = config.bev_cells**2, config.width
    points, k = cells * len(config.lift_heights_m), config.lift_cameras
    return FusionInputs(
        camera_features=there(1, cameras, tokens, width),
        camera_present=there(1, cameras, dtype=torch.bool),
        camera_rays=there(1, cameras, tokens, 3),
        camera_origin_m=there(1, cameras, 3),
        camera_age_s=there(1, cameras),
        lift_camera=there(1, points, k, dtype=torch.int64),
        lift_uv=there(1, points, k, 2),
        lift_depth_m=there(1, points, k),
        lift_valid=there(1, points, k, dtype=torch.bool),
        lidar_features=there(1, lidars, cells, width),
        lidar_present=there(1, lidars, dtype=torch.bool),
        lidar_age_s=there(1, lidars),
        radar_features=there(1, cells, width),
        radar_present=there(1, dtype=torch.bool),
        radar_age_s=there(1),
        ego=there(1, len(EGO_FIELDS)),
    )


def test_points_wait_for_nothing() -> None:
    clouds = raw_clouds([sweep(0, [[1.0, 2.0, 0.5]] * 50)], se3(np.eye(3), [0, 0, 2.0]), EgoMotion.standing(0), slots=3)
    kept: list[Function] = []
    DevicePoints(SMALL, THERE, lambda function: kept.append(function) or function)  # type: ignore[func-returns-value]
    given = [getattr(clouds, field.name) for field in fields(clouds)]
    points, count = kept[0](*(there(*one.shape, dtype=one.dtype) for one in given))
    assert points.shape == (SMALL.lidar.max_points, 5)
    assert points.device == count.device == THERE


def test_geometry_waits_for_nothing() -> None:
    geometry = DeviceGeometry(SMALL, THERE, lambda function: function)
    tokens = (SMALL.image.height_px // STRIDE) * (SMALL.image.width_px // STRIDE)
    for views in (surround_request().cameras, ()):
        built = geometry.build(views)
        assert built.rays.shape == (len(views), tokens, 3)
        assert {getattr(built, field.name).device for field in fields(built)} == {THERE}
    lens, poses = there(6, len(CAMERA_FIELDS)), there(6, 4, 4)
    assert geometry._views(lens, poses, there(6, dtype=torch.bool), there(6, tokens, 3))[0].device == THERE


def test_pictures_wait_for_nothing() -> None:
    camera = surround_request().cameras[0].camera
    picture = DeviceImages(SMALL.image, THERE).resize(there(3, 450, 800, dtype=torch.uint8), camera)
    assert picture.shape == (3, SMALL.image.height_px, SMALL.image.width_px)
    assert (picture.dtype, picture.device) == (torch.uint8, THERE)


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x + torch.zeros(3),
    ],
)
def test_these_tests_would_notice(asks: Callable[[Tensor], object]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        asks(there(3))
