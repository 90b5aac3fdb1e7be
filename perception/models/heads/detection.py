"""Detection head: what the decoder adds to the dense head's class scores and boxes, and the attribute."""

from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.core.taxonomy import ATTRIBUTES, CLASSES
from perception.models.blocks import FeedForward, exact, start_small
from perception.models.boxes import BOX_FIELDS, offsets_to_boxes
from perception.models.queries import Queries


class DetectionHead(nn.Module):
    """States (D, B, Q, C) to class logits (D, B, Q, classes), boxes (D, B, Q, 10), attribute logits (D, B, Q, A).

    Classes and boxes are corrections of what the queries start from, so that a decoder that has learned nothing yet
    says what the dense head says.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.label = FeedForward(config.width, config.width, len(CLASSES))
        self.box = FeedForward(config.width, config.width, len(BOX_FIELDS))
        self.attribute = nn.Linear(config.width, len(ATTRIBUTES))

    def reset(self) -> None:
        """Start with corrections close to 0."""
        start_small(self.label[-1], std=0.01)
        start_small(self.box[-1], std=0.01)

    def forward(self, states: Tensor, queries: Queries) -> tuple[Tensor, Tensor, Tensor]:
        with exact(states):
            states = states.float()
            label: Tensor = queries.base_logits + self.label(states)
            boxes = offsets_to_boxes(self.box(states), queries.base_boxes)
            attribute: Tensor = self.attribute(states)
        return label, boxes, attribute
