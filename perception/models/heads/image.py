"""Image head, for training only: object centres on the image itself, where labels are plentiful."""

from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.core.taxonomy import CLASSES
from perception.models.blocks import ConvNorm, start_small, to_map
from perception.models.encoders.camera import STRIDE
from perception.models.heads.dense import PRIOR_LOGIT

HIDDEN = 64


class ImageHead(nn.Module):
    """Camera tokens (B, T, C) to heat logits (B, classes, h, w) of projected box centres."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rows, self.columns = config.image.height_px // STRIDE, config.image.width_px // STRIDE
        self.hidden = ConvNorm(config.width, HIDDEN, kernel=1)
        self.heat = nn.Conv2d(HIDDEN, len(CLASSES), 1)

    def reset(self) -> None:
        """Start from the prior of the dense head."""
        start_small(self.heat, std=0.01, bias=PRIOR_LOGIT)

    def forward(self, features: Tensor) -> Tensor:
        x = self.hidden(to_map(features, self.rows, self.columns))  # (B, 64, h, w)
        heat: Tensor = self.heat(x)  # (B, classes, h, w)
        return heat
