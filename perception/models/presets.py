"""The sizes in which the network comes."""

from typing import Final

from perception.config.schema import ImageConfig, LidarConfig, ModelConfig, RadarConfig
from perception.core.errors import ModelError

PRESETS: Final[dict[str, ModelConfig]] = {
    "tiny": ModelConfig(),
    "small": ModelConfig(
        name="small",
        image=ImageConfig(channels=(24, 48, 80, 128)),
        lidar=LidarConfig(channels=(40, 80, 128)),
        radar=RadarConfig(channels=48),
        width=128,
        feedforward=256,
        layers=3,
    ),
    "base": ModelConfig(
        name="base",
        image=ImageConfig(height_px=256, width_px=704, backbone="resnet50"),
        lidar=LidarConfig(max_points=262_144, pillar_m=0.2, canvas=512, channels=(32, 64, 128, 256), sweeps=10),
        radar=RadarConfig(max_points=2_048, channels=64),
        bev_cells=128,
        memory_cells=128,
        width=256,
        heads=8,
        feedforward=1024,
        layers=6,
        heatmap_queries=300,
        learned_queries=100,
        max_detections=300,
    ),
}


def preset(name: str) -> ModelConfig:
    """The configuration called `name`. Raises ModelError, naming the known ones."""
    if name not in PRESETS:
        raise ModelError(f"no model is called {name!r}; there are {', '.join(PRESETS)}, or give a .safetensors file")
    return PRESETS[name]
