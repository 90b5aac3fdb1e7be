"""A network and a run so small that a step takes milliseconds."""

from pathlib import Path
from typing import Any

import torch

from perception.config.schema import ImageConfig, LidarConfig, ModelConfig, RadarConfig
from perception.config.training import AugmentConfig, DataConfig, ModalityDropoutConfig, TrainingConfig
from perception.models.network import build_network
from perception.training.frames import TrainingFrame
from perception.training.state import Identity
from perception.training.trainer import Trainer
from tests.training_scenes import make_frame

MINI = ModelConfig(
    name="mini",
    image=ImageConfig(height_px=32, width_px=64, channels=(4, 8, 8, 8)),
    lidar=LidarConfig(max_points=1024, pillar_m=3.2, canvas=32, channels=(8, 16)),
    radar=RadarConfig(max_points=64, channels=8),
    bev_cells=32,
    memory_cells=8,
    width=16,
    heads=2,
    feedforward=32,
    heatmap_queries=24,
    learned_queries=4,
)

PLAIN = AugmentConfig(
    flip=0,
    rotation_deg=0,
    scale=0,
    translation_m=0,
    image_scale=(1, 1),
    color=0,
    intensity=0,
    jitter_m=0,
    drop_points=0,
)
"""Nothing is changed."""
WHOLE = ModalityDropoutConfig(subset=0, degrade=0, route_target=0)
"""Nothing is dropped."""


def mini_frames(count: int, first: int = 0) -> list[TrainingFrame]:
    return [make_frame(first + i, config=MINI, clutter=100) for i in range(count)]


def mini_config(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {
        "name": "mini",
        "data": DataConfig(drives=("made-up",)),
        "steps": 12,
        "batch_size": 4,
        "checkpoint_every": 5,
        "validate_every": 100,
    }
    return TrainingConfig(**(values | changes))


def mini_trainer(
    config: TrainingConfig, folder: Path, frames: list[TrainingFrame], validation: list[TrainingFrame] | None = None
) -> Trainer:
    """A trainer in this process, on one thread so that sums come in one order."""
    torch.set_num_threads(1)
    return Trainer(
        config,
        build_network(MINI),
        frames,
        validation or [],
        folder,
        identity=Identity.of(config, MINI, "frames", "validation"),
        device=torch.device("cpu"),
    )
