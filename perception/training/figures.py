"""Numbers that a device computed, on their way to the host while it goes on with the next step."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Figures:
    """Scalars by name, fetched without waiting for the device until they are read."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._names = tuple(values)
        stacked = torch.stack([value.detach().float() for value in values.values()])
        self._values = stacked.to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if stacked.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> dict[str, float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))
