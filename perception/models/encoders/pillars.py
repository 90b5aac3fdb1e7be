"""Points to a bird's-eye view of fixed size: a small network on each point, then the maximum in each cell."""

import torch
from torch import Tensor, nn

from perception.models.blocks import FeedForward, exact, to_map


class Pillars(nn.Module):
    """Points (B, P, F) of which the first `count` are real to a canvas (B, C, cells, cells), 0 where empty.

    The first three fields are x, y, z in metres; `scale` (F,) brings every field to about -1..1.
    """

    def __init__(self, cells: int, range_m: float, scale: tuple[float, ...], channels: int) -> None:
        super().__init__()
        self.cells, self.range_m, self.channels = cells, range_m, channels
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.scale: Tensor
        self.point = FeedForward(len(scale) + 2, channels, channels)

    def forward(self, points: Tensor, count: Tensor) -> Tensor:
        batch, cap, _ = points.shape
        cells = self.cells
        with exact(points):  # half precision would merge close points
            points = points.float()  # (B, P, F)
            place = (points[..., :2] + self.range_m) * (cells / (2 * self.range_m))  # (B, P, 2) in cells
            cell = place.floor().clamp(0, cells - 1)  # (B, P, 2)
            within = place - cell - 0.5  # (B, P, 2) from the cell's centre
            features = self.point(torch.cat([points * self.scale, within], dim=-1)).relu()  # (B, P, C)

            is_real = torch.arange(cap, device=points.device) < count[:, None]  # (B, P)
            flat = (cell[..., 0] * cells + cell[..., 1]).long()  # (B, P)
            flat = torch.where(is_real, flat, cells * cells)  # padding goes to one cell more, thrown away below
            flat = flat + torch.arange(batch, device=points.device)[:, None] * (cells * cells + 1)
            canvas = features.new_zeros(batch * (cells * cells + 1), self.channels)
            index = flat.reshape(-1, 1).expand(-1, self.channels)  # (B * P, C)
            canvas = canvas.scatter_reduce(0, index, features.flatten(0, 1), "amax")  # (B * (cells^2 + 1), C)
        real = canvas.view(batch, cells * cells + 1, -1)[:, :-1]  # (B, cells^2, C)
        return to_map(real, cells, cells)  # (B, C, cells, cells)
