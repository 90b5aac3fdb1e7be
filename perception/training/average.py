"""The moving average of the weights: what is validated and shipped."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """An average over the last steps of every weight and of the batch norms' statistics.

    Its horizon grows with the number of steps up to `decay`, so that a short run is not held back by its first weights.
    """

    def __init__(self, network: M, decay: float) -> None:
        self._decay = decay
        self.network: M = copy.deepcopy(network).eval().requires_grad_(False)
        self._averaged = _floats(self.network)
        self._source = _floats(network)

    def update(self, step: int) -> None:
        """Take in the weights after step `step` (0 is the first)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, self._source, 1 - decay)


def _floats(network: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in network.state_dict().values() if tensor.is_floating_point()]
