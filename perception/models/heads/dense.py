"""Dense head: on every cell a score for each class, a box and whether one can drive there."""

import math

from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.core.taxonomy import CLASSES
from perception.models.blocks import ConvNorm, cell_centers, exact, start_small, to_tokens
from perception.models.boxes import BOX_FIELDS, boxes_at, offsets_to_boxes

PRIOR = 0.01
"""Score of a class where nothing is known, so that focal loss does not drown in background at first
(Lin et al., Focal Loss, ICCV 2017)."""
PRIOR_LOGIT = -math.log((1 - PRIOR) / PRIOR)

HIDDEN = 64


class DenseHead(nn.Module):
    """Bird's-eye view (B, C, G, G) to heat logits (B, classes, G, G), boxes (B, G * G, 10), drivable (B, G, G)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = ConvNorm(config.width, HIDDEN)
        self.heat = nn.Conv2d(HIDDEN, len(CLASSES), 1)
        self.box = nn.Conv2d(HIDDEN, len(BOX_FIELDS), 1)
        self.drivable = nn.Conv2d(HIDDEN, 1, 1)
        self.register_buffer("centers_m", cell_centers(config.bev_cells) * config.range_m, persistent=False)
        self.centers_m: Tensor

    def reset(self) -> None:
        """Start from the prior; called once the convolutions have their first weights."""
        start_small(self.heat, std=0.08, bias=PRIOR_LOGIT)
        start_small(self.box, std=0.01)
        start_small(self.drivable, std=0.01)

    def forward(self, bev: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.hidden(bev)  # (B, 64, G, G)
        with exact(x):
            x = x.float()
            heat: Tensor = self.heat(x)  # (B, classes, G, G)
            raw = to_tokens(self.box(x))  # (B, G * G, 10)
            boxes = offsets_to_boxes(raw, boxes_at(self.centers_m))  # (B, G * G, 10)
            drivable: Tensor = self.drivable(x)[:, 0]  # (B, G, G)
        return heat, boxes, drivable
