"""Curves that a car may drive from where it is: two bends of fixed curvatures, one after the other."""

import functools
from typing import Final

import torch
from torch import Tensor

CURVATURES_PER_M: Final = (0.16, 0.10, 0.06, 0.03, 0.012, 0.0, -0.012, -0.03, -0.06, -0.10, -0.16)
FIRST_BEND_M: Final = (3.0, 8.0, 15.0)
"""Where the second bend begins."""
MAX_TURN_RAD: Final = 1.9
"""A curve that has turned so far goes straight on."""
LENGTH_M: Final = 30.0
STEP_M: Final = 0.5
SIGHT_S: Final = 3.5
"""Curves are scaled up where the ego comes further than their length within this time, ..."""
MAX_SCALE: Final = 3.0
"""... up to so many times."""


@functools.cache
def curves() -> Tensor:
    """(K, L, 3): x, y in metres and heading in rad of K curves, at every `STEP_M` of their length.

    x forward, y left; they begin at the origin, which is left out, along x. Each comes with its mirror image.
    """
    along = torch.arange(round(LENGTH_M / STEP_M), device="cpu") * STEP_M  # (L,); kept, so never of another device
    found = []
    for begin_m in FIRST_BEND_M:
        for first in CURVATURES_PER_M:
            for second in CURVATURES_PER_M:
                if first == second and begin_m != FIRST_BEND_M[0]:
                    continue  # one bend only: the same curve again
                bend = torch.where(along < begin_m, first, second)
                heading = torch.cumsum(bend * STEP_M, 0).clamp(-MAX_TURN_RAD, MAX_TURN_RAD)
                middle = torch.cat([heading[:1] / 2, (heading[1:] + heading[:-1]) / 2])
                place = torch.cumsum(torch.stack([middle.cos(), middle.sin()], dim=-1) * STEP_M, 0)
                found.append(torch.cat([place, heading[:, None]], dim=-1))
    return torch.stack(found)


def scale_of(speed_mps: Tensor) -> Tensor:
    """How many times as long (and as wide) the curves are for egos of these speeds, same shape."""
    return (speed_mps * (SIGHT_S / LENGTH_M)).clamp(1.0, MAX_SCALE)


def points_at(lines: Tensor, length_m: Tensor) -> Tensor:
    """Points (..., S, 2) at arc lengths (..., S) of lines (..., L, 2) that are sampled as `curves` (begin left out).

    Straight on beyond a line's end.
    """
    lines = torch.cat([torch.zeros_like(lines[..., :1, :]), lines], dim=-2)  # (..., 1 + L, 2)
    last = lines.shape[-2] - 1
    place = length_m / STEP_M
    low = place.detach().nan_to_num().floor().clamp(0, last - 1).long()  # (..., S)
    begin = lines.gather(-2, low[..., None].expand(*low.shape, 2))
    end = lines.gather(-2, (low + 1)[..., None].expand(*low.shape, 2))
    return begin + (end - begin) * (place - low)[..., None]


def distance_from_curves(path_m: Tensor, known: Tensor, speed_mps: Tensor) -> tuple[Tensor, Tensor]:
    """How far ways that were driven lie beside each curve.

    path_m: (B, S, 2), known: (B, S) the leading part that is, speed_mps: (B,). Returns (B, K), the mean distance in
    metres between points at the same arc length, and (B,) whether a way is long enough to be told from others: False
    for an ego that hardly moves.
    """
    scale = scale_of(speed_mps)[:, None, None]  # (B, 1, 1)
    path = torch.where(known[..., None], path_m, 0.0) / scale
    before = torch.cat([torch.zeros_like(path[:, :1]), path[:, :-1]], dim=1)
    length = (path - before).norm(dim=-1).cumsum(dim=1)  # (B, S), of the curves' own scale
    counts = known & (length > 2 * STEP_M) & (length < LENGTH_M)  # (B, S)
    family = curves()[..., :2].to(path)  # (K, L, 2)
    points = points_at(family, length.flatten().expand(len(family), -1)).view(-1, *path.shape)  # (K, B, S, 2)
    gap = (points - path).norm(dim=-1) * scale[..., 0] * counts  # (K, B, S)
    return gap.sum(dim=-1).T / counts.sum(dim=-1).clamp(min=1)[:, None], counts.sum(dim=-1) >= 2
