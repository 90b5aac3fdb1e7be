"""A small network and batches for it, for the tests of what it learns."""

from dataclasses import replace

import torch

from perception.config.schema import ImageConfig, LidarConfig, ModelConfig, RadarConfig
from perception.models.network import PerceptionNetwork, build_network
from perception.training.batch import TrainingBatch
from perception.training.collate import collate
from tests.training_scenes import make_frame, pinhole

SMALL = ModelConfig(
    name="small-for-tests",
    image=ImageConfig(height_px=64, width_px=176, channels=(8, 12, 16, 24)),
    lidar=LidarConfig(max_points=1024, pillar_m=1.6, canvas=64, channels=(16, 24, 32)),
    radar=RadarConfig(max_points=64, channels=16),
    bev_cells=32,
    memory_cells=8,
    width=32,
    heads=2,
    feedforward=64,
    heatmap_queries=20,
    learned_queries=4,
)


def small_network() -> PerceptionNetwork:
    """Untrained, in train mode."""
    return build_network(SMALL).train()


def small_batch(*objects: int, lidars: int = 1, radar: bool = True) -> TrainingBatch:
    """One frame for each number of objects."""
    frames = [
        make_frame(
            seed,
            cameras=(pinhole(90.0, SMALL),) * 3,
            objects=count,
            lidars=lidars,
            radar=radar,
            clutter=200,
            config=SMALL,
        )
        for seed, count in enumerate(objects)
    ]
    batch = collate(frames, SMALL, 200)
    across = torch.arange(SMALL.bev_cells).expand(len(batch), SMALL.bev_cells, -1)
    drivable = ((across > SMALL.bev_cells // 3) & (across < SMALL.bev_cells // 2)).float()  # a road to the right of us
    return replace(batch, drivable=drivable, drivable_known=torch.ones_like(drivable, dtype=torch.bool))


def with_sensors(batch: TrainingBatch, *names: str) -> TrainingBatch:
    """The batch with only these of `camera`, `lidar` and `radar` present; what the others hold stays."""
    return replace(
        batch,
        camera_present=batch.camera_present & ("camera" in names),
        lidar_present=batch.lidar_present & ("lidar" in names),
        radar_present=batch.radar_present & ("radar" in names),
    )
