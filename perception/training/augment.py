"""Augmentation of a batch on its device: other objects, another world, other images, other points."""

import math

from torch import Generator

from perception.config.schema import ModelConfig
from perception.config.training import AugmentConfig
from perception.training.augment_images import augment_images
from perception.training.augment_points import augment_points
from perception.training.augment_world import change_world, draw_change
from perception.training.batch import TrainingBatch
from perception.training.paste import paste


def augment(
    batch: TrainingBatch, config: AugmentConfig, model: ModelConfig, generator: Generator, progress: float
) -> TrainingBatch:
    """A batch with every sample changed by its own draw; what is seen and what is true change alike.

    generator: of this step, best on the batch's device. progress: share of the schedule that is done, 0..1.
    """
    if progress < config.paste_until:
        count = math.ceil(config.paste * (1 - progress / config.paste_until))
        batch = paste(batch, count, model, generator)
    change = draw_change(len(batch), config, generator, batch.boxes.device)
    batch = change_world(batch, change, model.range_m)
    batch = augment_points(batch, config, model, generator)
    return augment_images(batch, config, change.is_mirrored, generator)
