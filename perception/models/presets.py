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
}


def preset(name: str) -> ModelConfig:
    """The configuration called `name`. Raises ModelError, naming the known ones."""
    if name not in PRESETS:
        raise ModelError(f"no model is called {name!r}; there are {', '.join(PRESETS)}, or give a .safetensors file")
    return PRESETS[name]
