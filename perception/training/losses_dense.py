"""Losses of the dense head: heat, one box of several cells for each object, drivable area."""

from torch import Tensor
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.config.training import LossConfig
from perception.models.boxes import BOX_FIELDS
from perception.models.tensors import FusionTensors
from perception.training.batch import TrainingBatch
from perception.training.losses_terms import Divisor, at_least_one, box_error, heat_loss, mean_of
from perception.training.targets import Objects, dense_assignment, heat_targets

DICE_SMOOTH = 1.0


def dense_losses(
    tensors: FusionTensors,
    batch: TrainingBatch,
    objects: Objects,
    config: LossConfig,
    model: ModelConfig,
    divisor: Divisor = at_least_one,
) -> dict[str, Tensor]:
    """`heatmap`, `dense_box` and `drivable`, unweighted."""
    heat = heat_loss(tensors.heat_logits, heat_targets(objects, model))
    return {
        "heatmap": heat / divisor(objects.is_object.sum()),
        "dense_box": _box_loss(tensors.dense_boxes, objects, config, model, divisor),
        "drivable": drivable_loss(tensors.drivable_logits, batch.drivable, batch.drivable_known, divisor),
    }


def _box_loss(
    dense_boxes: Tensor, objects: Objects, config: LossConfig, model: ModelConfig, divisor: Divisor
) -> Tensor:
    cells, is_assigned = dense_assignment(objects, model, config.dense_assignments)  # (B, M, k)
    index = cells.flatten(1)[..., None].expand(-1, -1, len(BOX_FIELDS))
    boxes = dense_boxes.gather(1, index).view(*cells.shape, len(BOX_FIELDS))  # (B, M, k, 10)
    error = box_error(
        boxes,
        objects.boxes[:, :, None],
        objects.class_index[..., None],
        objects.is_moving_known[..., None],
        config.velocity,
    )  # (B, M, k)
    return mean_of(error, is_assigned, divisor)


def drivable_loss(logits: Tensor, target: Tensor, is_known: Tensor, divisor: Divisor = at_least_one) -> Tensor:
    """Cross-entropy of each known cell plus Dice of each frame (Milletari et al., V-Net, 3DV 2016); (B, G, G) each."""
    error = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = mean_of(error, is_known, divisor)
    score, wanted = logits.sigmoid() * is_known, target * is_known
    overlap = 2 * (score * wanted).sum(dim=(1, 2)) + DICE_SMOOTH  # (B,)
    dice = 1 - overlap / (score.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2)) + DICE_SMOOTH)
    return entropy + mean_of(dice, is_known.flatten(1).any(dim=1), divisor)
