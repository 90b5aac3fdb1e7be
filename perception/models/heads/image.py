"""Image head, for training only: object centres and depth on the image itself, where labels are plentiful."""

from dataclasses import dataclass

from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.core.taxonomy import CLASSES
from perception.models.blocks import ConvNorm, start_small, to_map
from perception.models.encoders.camera import STRIDE
from perception.models.heads.dense import PRIOR_LOGIT

HIDDEN = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageTensors:
    """heat_logits: (B, classes, h, w) of projected box centres. log_depth: (B, h, w), logarithm of metres."""

    heat_logits: Tensor
    log_depth: Tensor


class ImageHead(nn.Module):
    """Camera tokens (B, T, C) to `ImageTensors`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rows, self.columns = config.image.height_px // STRIDE, config.image.width_px // STRIDE
        self.hidden = ConvNorm(config.width, HIDDEN, kernel=1)
        self.heat = nn.Conv2d(HIDDEN, len(CLASSES), 1)
        self.depth = nn.Conv2d(HIDDEN, 1, 1)

    def reset(self) -> None:
        """Start from the prior of the dense head."""
        start_small(self.heat, std=0.01, bias=PRIOR_LOGIT)
        start_small(self.depth, std=0.01)

    def forward(self, features: Tensor) -> ImageTensors:
        x = self.hidden(to_map(features, self.rows, self.columns))  # (B, 64, h, w)
        return ImageTensors(heat_logits=self.heat(x), log_depth=self.depth(x)[:, 0])
