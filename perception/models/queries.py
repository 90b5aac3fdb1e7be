"""Object queries: the peaks of the heatmap, and a few learned ones for what the heatmap does not see."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.core.taxonomy import CLASS_INDEX, CLASSES
from perception.models.blocks import ABSENT, to_tokens
from perception.models.boxes import boxes_at
from perception.models.heads.dense import PRIOR_LOGIT

POINT_CLASSES = ("pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier")
"""Narrower than a cell, and often side by side: neighbouring peaks of these are different objects."""

SCORE_STEPS = 2**16
"""Scores are compared in so many steps, and by cell index within one: without it the last bits of a sum, which
differ with the number of threads or the device, would decide which query comes first."""

COPY_LOGIT = 0.0
"""What a noisy copy claims of the class it is said to be: as much as a fair peak of the heatmap."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Queries:
    """content: (B, Q, C). xy: (B, Q, 2) position in -1..1 of the range. base_logits: (B, Q, classes) and base_boxes:
    (B, Q, 10), what the decoder refines. cell: (B, Q) int64. bias: (B, Q, Q) of self-attention, 0 or `ABSENT`, None
    where every query attends to all."""

    content: Tensor
    xy: Tensor
    base_logits: Tensor
    base_boxes: Tensor
    cell: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenoisingQueries:
    """Noisy copies of labels that the decoder learns to mend, R a bundle (Li et al., DN-DETR, CVPR 2022).

    class_index: (B, R) int64, some of them wrong. boxes: (B, R, 10). group: (B, R) int64; only copies of one group
    see each other. is_real: (B, R) bool, False for padding. source: (B, R) int64, the label that each is a copy of.
    """

    class_index: Tensor
    boxes: Tensor
    group: Tensor
    is_real: Tensor
    source: Tensor


class QueryInit(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ordinary = config.heatmap_queries + config.learned_queries
        self.count, self.range_m, self.cells = config.heatmap_queries, config.range_m, config.bev_cells
        self.class_embedding = nn.Embedding(len(CLASSES), config.width)
        self.learned_content = nn.Parameter(torch.randn(config.learned_queries, config.width) * 0.1)
        self.learned_place = nn.Parameter(torch.randn(config.learned_queries, 2) * 0.5)
        is_point = torch.zeros(len(CLASSES), dtype=torch.bool)
        is_point[[CLASS_INDEX[name] for name in POINT_CLASSES]] = True
        self.register_buffer("is_point", is_point, persistent=False)
        self.is_point: Tensor

    def forward(
        self, bev: Tensor, heat_logits: Tensor, dense_boxes: Tensor, denoising: DenoisingQueries | None
    ) -> Queries:
        """bev (B, C, G, G), heat_logits (B, classes, G, G), dense_boxes (B, G * G, 10)."""
        queries = self._queries(bev, heat_logits, dense_boxes)
        return queries if denoising is None else self._with_copies(queries, denoising, bev)

    def _queries(self, bev: Tensor, heat_logits: Tensor, dense_boxes: Tensor) -> Queries:
        batch, cells = bev.shape[0], bev.shape[-1] ** 2
        label, cell = select_peaks(heat_logits.detach(), self.count, self.is_point)  # (B, Qh) each
        features = _rows(to_tokens(bev), cell)  # (B, Qh, C)
        logits = _rows(to_tokens(heat_logits), cell)  # (B, Qh, classes)
        boxes = _rows(dense_boxes, cell)  # (B, Qh, 10)

        place = self.learned_place.tanh().expand(batch, -1, -1)  # (B, Ql, 2)
        learned = place.shape[1]
        number = cells + torch.arange(learned, device=cell.device).expand(batch, -1)  # (B, Ql)
        prior = logits.new_full((batch, learned, len(CLASSES)), PRIOR_LOGIT)
        # The decoder refines what the dense head says; each of them learns from its own loss.
        logits, boxes = logits.detach(), boxes.detach()
        return Queries(
            content=torch.cat(
                [features + self.class_embedding(label), self.learned_content.expand(batch, -1, -1)], dim=1
            ),
            xy=torch.cat([boxes[..., :2] / self.range_m, place], dim=1),
            base_logits=torch.cat([logits, prior], dim=1),
            base_boxes=torch.cat([boxes, boxes_at(place * self.range_m)], dim=1),
            cell=torch.cat([cell, number], dim=1),
        )

    def _with_copies(self, queries: Queries, copies: DenoisingQueries, bev: Tensor) -> Queries:
        """The queries with the noisy copies behind them."""
        place = (copies.boxes[..., :2] / self.range_m).clamp(-1, 1)  # (B, R, 2)
        row, column = ((place + 1) * (self.cells / 2)).long().clamp(max=self.cells - 1).unbind(dim=-1)
        cell = row * self.cells + column  # (B, R)
        content = _rows(to_tokens(bev), cell) + self.class_embedding(copies.class_index)  # (B, R, C)
        is_named = functional.one_hot(copies.class_index, len(CLASSES)) > 0  # (B, R, classes)
        return Queries(
            content=torch.cat([queries.content, content], dim=1),
            xy=torch.cat([queries.xy, place], dim=1),
            base_logits=torch.cat([queries.base_logits, torch.where(is_named, COPY_LOGIT, PRIOR_LOGIT)], dim=1),
            base_boxes=torch.cat([queries.base_boxes, copies.boxes], dim=1),
            cell=torch.cat([queries.cell, cell], dim=1),
            bias=_copies_bias(self.ordinary, copies),
        )


def _copies_bias(count: int, copies: DenoisingQueries) -> Tensor:
    """Self-attention bias (B, Q + R, Q + R): nobody sees a copy but the copies of its own group."""
    is_blocked = (copies.group[:, :, None] != copies.group[:, None]) | ~copies.is_real[:, None]  # (B, R, R)
    among = torch.where(is_blocked, ABSENT, 0.0)
    ordinary = functional.pad(among.new_zeros(len(among), count, count), (0, among.shape[1]), value=ABSENT)
    return torch.cat([ordinary, functional.pad(among, (count, 0))], dim=1)


def select_peaks(heat_logits: Tensor, count: int, is_point: Tensor) -> tuple[Tensor, Tensor]:
    """The `count` highest local maxima: class (B, count) and cell (B, count) int64, best first, ties by cell.

    heat_logits (B, classes, G, G). is_point (classes,): True for classes of which every cell is its own maximum.
    """
    steps = (heat_logits.float().sigmoid() * SCORE_STEPS).round()  # (B, classes, G, G)
    is_peak = (steps == functional.max_pool2d(steps, 3, stride=1, padding=1)) | is_point.view(1, -1, 1, 1)
    classes, total = steps.shape[1], steps[0].numel()
    steps = to_tokens(steps * is_peak).flatten(1).long()  # (B, G * G * classes)
    # One whole number for both: the score in front, the place (counted backwards) behind. All differ.
    backwards = torch.arange(total - 1, -1, -1, device=steps.device)
    best = (steps * total + backwards).topk(count, dim=1).values  # (B, count)
    place = total - 1 - best % total
    return place % classes, place // classes


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows (B, Q, C) of table (B, M, C) at index (B, Q)."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[-1]))
