"""Made-up inputs for the tests of the model."""

import functools

import numpy as np
import torch

from perception.config.schema import ModelConfig
from perception.core.stages import FuseRequest
from perception.models.bench import surround_request
from perception.models.geometry import ViewGeometry
from perception.models.network import PerceptionNetwork, build_network
from perception.models.tensors import EGO_FIELDS, FusionInputs

TINY = ModelConfig()


@functools.cache
def tiny_network() -> PerceptionNetwork:
    """The untrained tiny network in eval mode; shared, so leave it as it is."""
    return build_network(TINY).eval().requires_grad_(False)


def noise_inputs(
    seed: int,
    *,
    camera: bool = True,
    lidar: bool = True,
    radar: bool = True,
    lidars: int = 1,
    request: FuseRequest | None = None,
) -> FusionInputs:
    """One bundle with features of noise; what is not named present is there as noise too, but marked absent."""
    random = torch.Generator().manual_seed(seed)
    request = surround_request() if request is None else request
    views = ViewGeometry(TINY).build(request.cameras)
    count, tokens, cells = len(request.cameras), views.rays.shape[1], TINY.bev_cells**2

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    return FusionInputs(
        camera_features=noise(1, count, tokens, TINY.width),
        camera_present=torch.full((1, count), camera),
        camera_rays=torch.from_numpy(views.rays)[None],
        camera_origin_m=torch.from_numpy(views.origin_m)[None],
        camera_age_s=noise(1, count) * 0.05,
        lift_camera=torch.from_numpy(views.lift_camera)[None],
        lift_uv=torch.from_numpy(views.lift_uv)[None],
        lift_depth_m=torch.from_numpy(views.lift_depth_m)[None],
        lift_valid=torch.from_numpy(views.lift_valid)[None],
        lidar_features=noise(1, lidars, cells, TINY.width),
        lidar_present=torch.full((1, lidars), lidar),
        lidar_age_s=noise(1, lidars) * 0.05,
        radar_features=noise(1, cells, TINY.width),
        radar_present=torch.tensor([radar]),
        radar_age_s=noise(1) * 0.05,
        ego=noise(1, len(EGO_FIELDS)),
    )


def noise_cloud(
    rng: np.random.Generator, count: int, range_m: float = 60.0
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Points (count, 3) float32, some outside the network's range."""
    spread = np.array([range_m, range_m, 4.0])
    return rng.uniform(-spread, spread, (count, 3)).astype(np.float32)
