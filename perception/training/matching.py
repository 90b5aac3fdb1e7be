"""Which query answers for which object: the assignment of least total cost, one to one, at every decoder layer."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from perception.models.boxes import VELOCITY
from perception.training.targets import Objects

CLASS_COST = 2.0
BOX_COST = 0.25
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0

NEVER = 1e6
"""Cost that stands for one that is not a finite number."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matches:
    """query: (D, B, M) int64, the query that answers for each object. is_matched: (D, B, M) bool; False for padding,
    and for objects that found no query because there are more objects than queries."""

    query: Tensor
    is_matched: Tensor


@torch.no_grad()
def match(class_logits: Tensor, boxes: Tensor, objects: Objects) -> Matches:
    """class_logits (D, B, Q, classes), boxes (D, B, Q, 10). The device is waited for once, for all costs together."""
    cost = matching_cost(class_logits, boxes, objects)  # (D, B, Q, M)
    marks = objects.is_object.to(cost.dtype).expand(len(cost), -1, -1)[:, :, None]  # (D, B, 1, M)
    on_host: NDArray[np.float32] = torch.cat([cost, marks], dim=2).cpu().numpy()
    layers, batch, _, columns = on_host.shape
    query = np.zeros((layers, batch, columns), dtype=np.int64)
    is_matched = np.zeros((layers, batch, columns), dtype=np.bool_)
    for layer, row in np.ndindex(layers, batch):
        of_frame = on_host[layer, row]
        real = np.flatnonzero(of_frame[-1])
        chosen, column = linear_sum_assignment(of_frame[:-1, real])
        query[layer, row, real[column]] = chosen
        is_matched[layer, row, real[column]] = True
    device = class_logits.device
    return Matches(query=torch.from_numpy(query).to(device), is_matched=torch.from_numpy(is_matched).to(device))


def matching_cost(class_logits: Tensor, boxes: Tensor, objects: Objects) -> Tensor:
    """Cost (D, B, Q, M): focal in the object's class, and the L1 distance of boxes without velocity, in their raw units
    (metres, logarithms of metres, sine and cosine), as in Carion et al., DETR, ECCV 2020, and Zhu et al., Deformable
    DETR, ICLR 2021."""
    negative, positive = functional.softplus(class_logits), functional.softplus(-class_logits)  # -log(1 - p), -log(p)
    score = class_logits.sigmoid()
    gain = FOCAL_ALPHA * (1 - score) ** FOCAL_GAMMA * positive
    gain = gain - (1 - FOCAL_ALPHA) * score**FOCAL_GAMMA * negative  # (D, B, Q, classes)
    layers, _, queries, _ = gain.shape
    index = objects.class_index[None, :, None].expand(layers, -1, queries, -1)  # (D, B, Q, M)
    still = slice(0, VELOCITY.start)
    wanted = objects.boxes[..., still].expand(layers, -1, -1, -1)  # (D, B, M, 8)
    distance = torch.cdist(boxes[..., still], wanted, p=1.0)  # (D, B, Q, M)
    cost = CLASS_COST * gain.gather(3, index) + BOX_COST * distance
    return cost.nan_to_num(nan=NEVER, posinf=NEVER, neginf=-NEVER)
