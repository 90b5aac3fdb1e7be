"""What is true of a batch, in the shape in which the losses compare: objects, and the dense bird's-eye view."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.core.taxonomy import CLASSES
from perception.models.boxes import BOX_FIELDS, LOG_SIZE, VELOCITY
from perception.training.batch import TrainingBatch

WINDOW = 3
"""Cells to each side of an object's own that its heat and its box reach at most."""
SIGMA_CELLS = (0.5, 1.2)
SIGMA_PER_SIZE = 1 / 3
"""Deviation of an object's heat as a share of its footprint's side, within the bounds of `SIGMA_CELLS`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Objects:
    """The labelled objects of B frames, padded to M.

    is_object: (B, M) bool, True where the row is an object of the ten classes within the network's range.
    class_index: (B, M) int64, 0 where it is none. boxes: (B, M, 10), finite. is_moving_known: (B, M) bool, True where
    the velocity is known. attribute_index: (B, M) int64, -1 for none.
    """

    is_object: Tensor
    class_index: Tensor
    boxes: Tensor
    is_moving_known: Tensor
    attribute_index: Tensor

    def boxes_at(self, index: Tensor) -> Tensor:
        """Boxes (B, R, 10) of the objects index (B, R)."""
        return self.boxes.gather(1, index[..., None].expand(-1, -1, len(BOX_FIELDS)))

    def padded(self, rows: int) -> "Objects":
        """With `rows` more rows that are no objects."""
        return Objects(
            is_object=functional.pad(self.is_object, (0, rows)),
            class_index=functional.pad(self.class_index, (0, rows)),
            boxes=functional.pad(self.boxes, (0, 0, 0, rows)),
            is_moving_known=functional.pad(self.is_moving_known, (0, rows)),
            attribute_index=functional.pad(self.attribute_index, (0, rows), value=-1),
        )


def objects_of(batch: TrainingBatch, model: ModelConfig) -> Objects:
    """The objects that the network can be asked for; labels outside its range are none."""
    is_inside = batch.boxes[..., :2].abs().amax(dim=-1) < model.range_m  # (B, M), False for nan
    is_object = (batch.class_index >= 0) & is_inside
    boxes = torch.where(is_object[..., None], batch.boxes, 0.0)
    return Objects(
        is_object=is_object,
        class_index=torch.where(is_object, batch.class_index, 0),
        boxes=boxes.nan_to_num(nan=0.0),
        is_moving_known=is_object & boxes[..., VELOCITY].isfinite().all(dim=-1),
        attribute_index=torch.where(is_object, batch.attribute_index, -1),
    )


def heat_targets(objects: Objects, model: ModelConfig) -> Tensor:
    """Heat (B, classes, G, G) in 0..1: 1 in the cell of each centre, and a Gaussian around it that grows with size."""
    g = model.bev_cells
    centre = cell_of(objects, model)  # (B, M, 2)
    side_m = objects.boxes[..., LOG_SIZE][..., :2].mean(dim=-1).exp()  # (B, M), square root of the footprint
    sigma = (side_m * (SIGMA_PER_SIZE / cell_m(model))).clamp(*SIGMA_CELLS)  # (B, M)
    steps = _window(objects.boxes.device)  # (W, 2)
    heat = torch.exp(-steps.square().sum(dim=-1) / (2 * sigma[..., None].square()))  # (B, M, W)
    place, is_inside = _flat(centre[:, :, None] + steps, objects.is_object, g)  # (B, M, W)
    place = objects.class_index[..., None] * (g * g) + place
    target = heat.new_zeros(len(heat), len(CLASSES) * g * g)
    target = target.scatter_reduce(1, place.flatten(1), (heat * is_inside).flatten(1), "amax")
    return target.view(-1, len(CLASSES), g, g)


def dense_assignment(objects: Objects, model: ModelConfig, count: int) -> tuple[Tensor, Tensor]:
    """The `count` cells that learn the box of each object: cells (B, M, k) int64 and is_assigned (B, M, k).

    They are those nearest to its centre. A cell that two objects want learns the nearer one.
    """
    g = model.bev_cells
    steps = _window(objects.boxes.device)  # (W, 2)
    cells = cell_of(objects, model)[:, :, None] + steps  # (B, M, W, 2)
    middle_m = (cells + 0.5) * cell_m(model) - model.range_m
    distance = (middle_m - objects.boxes[:, :, None, :2]).norm(dim=-1)  # (B, M, W)
    place, is_inside = _flat(cells, objects.is_object, g)
    distance = distance.masked_fill(~is_inside, torch.inf)
    near, which = distance.topk(min(count, len(steps)), dim=-1, largest=False)  # (B, M, k)
    place = place.gather(2, which)
    nearest = distance.new_full((len(distance), g * g), torch.inf)
    nearest = nearest.scatter_reduce(1, place.flatten(1), near.flatten(1), "amin")
    is_mine = near <= nearest.gather(1, place.flatten(1)).view_as(near)
    return place, is_mine & near.isfinite()


def cell_m(model: ModelConfig) -> float:
    """Side of a cell of the fused bird's-eye view in metres."""
    return 2 * model.range_m / model.bev_cells


def cell_of(objects: Objects, model: ModelConfig) -> Tensor:
    """Row and column (B, M, 2) of each centre's cell, whole numbers as floats."""
    return ((objects.boxes[..., :2] + model.range_m) / cell_m(model)).floor().clamp(max=model.bev_cells - 1)


def _window(device: torch.device) -> Tensor:
    """Steps (W, 2) to the cells around one, itself included."""
    line = torch.arange(-WINDOW, WINDOW + 1, device=device, dtype=torch.float32)
    return torch.cartesian_prod(line, line)


def _flat(cells: Tensor, is_object: Tensor, g: int) -> tuple[Tensor, Tensor]:
    """Index (B, M, W) of cells (B, M, W, 2), and whether there is such a cell and such an object."""
    is_inside = ((cells >= 0) & (cells < g)).all(dim=-1) & is_object[..., None]
    row, column = cells.clamp(0, g - 1).long().unbind(dim=-1)
    return row * g + column, is_inside
