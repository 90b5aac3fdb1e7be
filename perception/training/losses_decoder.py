"""Losses of the decoder: class, box and attribute of the matched queries of every layer, and the mended copies."""

import functools

import torch
from torch import Tensor

from perception.config.training import LossConfig
from perception.core.taxonomy import ATTRIBUTES, CLASS_ATTRIBUTES, CLASSES
from perception.training.forward import Outputs
from perception.training.losses_terms import Divisor, at_least_one, box_error, focal_loss
from perception.training.matching import Matches
from perception.training.targets import Objects

FORBIDDEN = -1e4
"""Logit of an attribute that the class does not know."""


def decoder_losses(
    outputs: Outputs, objects: Objects, matches: Matches, config: LossConfig, divisor: Divisor = at_least_one
) -> dict[str, Tensor]:
    """`classification`, `box` and `attribute`: sums over the layers of means over the objects of the batch."""
    tensors, queries = outputs.tensors, outputs.queries
    logits, boxes = tensors.class_logits[:, :, :queries], tensors.boxes[:, :, :queries]
    is_matched, class_index = matches.is_matched, objects.class_index
    error = box_error(
        _at(boxes, matches.query), objects.boxes, class_index, objects.is_moving_known, config.velocity
    )  # (D, B, M)
    target = _class_target(logits, matches.query, class_index, is_matched)
    count = divisor(objects.is_object.sum())
    return {
        "classification": focal_loss(logits, target).sum() / count,
        "box": torch.where(is_matched, error, 0.0).sum() / count,
        "attribute": _attribute_loss(
            _at(tensors.attribute_logits[:, :, :queries], matches.query), objects, matches, divisor
        ),
    }


def denoising_loss(outputs: Outputs, objects: Objects, config: LossConfig, divisor: Divisor = at_least_one) -> Tensor:
    """Class and box of the noisy copies against the labels that they were made from, weighted as for the others; the
    sum over the layers of means over the copies. 0 where there are none."""
    tensors, copies = outputs.tensors, outputs.denoising
    if copies is None:
        return tensors.class_logits[:, :, outputs.queries :].sum() * 0.0
    count = divisor(copies.is_real.sum())
    if objects.is_object.shape[1] == 0:
        return tensors.class_logits[:, :, outputs.queries :].sum() * 0.0
    logits, boxes = tensors.class_logits[:, :, outputs.queries :], tensors.boxes[:, :, outputs.queries :]
    label = objects.class_index.gather(1, copies.source)  # (B, R)
    own = torch.arange(label.shape[1], device=label.device).expand_as(label)  # (B, R)
    target = _class_target(logits, own.expand(len(logits), -1, -1), label, copies.is_real.expand(len(logits), -1, -1))
    is_known = objects.is_moving_known.gather(1, copies.source)
    error = box_error(boxes, objects.boxes_at(copies.source), label, is_known, config.velocity)  # (D, B, R)
    loss = config.classification * focal_loss(logits, target).sum(dim=-1) + config.box * error  # (D, B, R)
    return torch.where(copies.is_real, loss, 0.0).sum() / count


def _class_target(logits: Tensor, query: Tensor, class_index: Tensor, is_matched: Tensor) -> Tensor:
    """1 at the class of the object that a query answers for, 0 elsewhere, (D, B, Q, classes).

    query, is_matched (D, B, M); class_index (B, M).
    """
    place = query * len(CLASSES) + class_index  # (D, B, M)
    flat = torch.zeros_like(logits).flatten(2)
    return flat.scatter_reduce(2, place, is_matched.to(flat.dtype), "amax").view_as(logits)


def _attribute_loss(logits: Tensor, objects: Objects, matches: Matches, divisor: Divisor) -> Tensor:
    """Cross-entropy among the attributes that the class may have, where one is known; logits (D, B, M, attributes)."""
    wanted = objects.attribute_index.clamp(min=0)  # (B, M)
    may_have = _may_have(logits.device)[objects.class_index]  # (B, M, attributes)
    is_possible = may_have.gather(2, wanted[..., None])[..., 0] & (objects.attribute_index >= 0)  # (B, M)
    chance = logits.masked_fill(~may_have, FORBIDDEN).log_softmax(dim=-1)  # (D, B, M, attributes)
    loss = -chance.gather(3, wanted[None, ..., None].expand(len(chance), -1, -1, -1))[..., 0]
    return torch.where(matches.is_matched & is_possible, loss, 0.0).sum() / divisor(is_possible.sum())


def _at(values: Tensor, query: Tensor) -> Tensor:
    """Rows (D, B, M, F) of values (D, B, Q, F) at query (D, B, M)."""
    return values.gather(2, query[..., None].expand(-1, -1, -1, values.shape[-1]))


@functools.cache
def _may_have(device: torch.device) -> Tensor:
    """(classes, attributes) bool: True where the class knows the attribute. Sent to a device once."""
    rows = [[name in CLASS_ATTRIBUTES[label] for name in ATTRIBUTES] for label in CLASSES]
    return torch.tensor(rows, device=device)
