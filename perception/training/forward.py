"""The whole network on a training batch: every sensor encoded, everything fused, and the heads that only train."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from perception.models.network import PerceptionNetwork
from perception.models.queries import DenoisingQueries
from perception.models.tensors import FusionInputs, FusionTensors
from perception.training.batch import TrainingBatch
from perception.training.view_geometry import ViewTensors


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outputs:
    """What the losses look at, in float32 whatever the network computed in.

    tensors: as `PerceptionNetwork.fuse` gives them, the denoising queries behind the others. image_heat: (B, N,
    classes, h, w) logits. denoising: what the network was given, None if nothing.
    """

    tensors: FusionTensors
    image_heat: Tensor
    denoising: DenoisingQueries | None

    @property
    def queries(self) -> int:
        """Q, how many of the queries are not for denoising."""
        copies = 0 if self.denoising is None else self.denoising.class_index.shape[1]
        return self.tensors.query_cell.shape[1] - copies


def forward(
    network: PerceptionNetwork, batch: TrainingBatch, views: ViewTensors, denoising: DenoisingQueries | None = None
) -> Outputs:
    """Encode, fuse and look at the images. Sensors that are not present are never encoded, whatever they hold."""
    camera = encode_present(network.camera_encoder, batch.camera_present, batch.images)  # (B, N, T, C)
    lidar = encode_present(network.lidar_encoder, batch.lidar_present, batch.lidar_points, batch.lidar_count)
    radar = encode_present(network.radar_encoder, batch.radar_present, batch.radar_points, batch.radar_count)
    image_heat = encode_present(network.image_head, batch.camera_present, camera)  # (B, N, classes, h, w)
    inputs = FusionInputs(
        camera_features=camera,
        camera_present=batch.camera_present,
        camera_rays=views.camera_rays,
        camera_origin_m=views.camera_origin_m,
        camera_age_s=batch.camera_age_s,
        lift_camera=views.lift_camera,
        lift_uv=views.lift_uv,
        lift_depth_m=views.lift_depth_m,
        lift_valid=views.lift_valid,
        lidar_features=lidar,
        lidar_present=batch.lidar_present,
        lidar_age_s=batch.lidar_age_s,
        radar_features=radar,
        radar_present=batch.radar_present,
        radar_age_s=batch.radar_age_s,
        ego=batch.ego,
    )
    tensors = network.fuse(inputs, denoising)
    return Outputs(tensors=_to_float(tensors), image_heat=image_heat.float(), denoising=denoising)


def encode_present(encode: nn.Module, is_present: Tensor, *inputs: Tensor) -> Tensor:
    """What `encode` makes of the rows of `inputs` (*is_present.shape, ...) that are present, 0 for the others.

    Batch norm must not see the others: its running statistics would become those of black images and empty sweeps,
    and the network would fail where it is used, on sensors that are there. A GPU cannot pick rows without telling the
    host how many, so there the place of an absent row is taken by a copy of a present one.
    """
    flat, rest = is_present.flatten(), [x.flatten(0, is_present.ndim - 1) for x in inputs]  # (R,), (R, ...) each
    if len(flat) == 0:  # no such sensor in the whole batch: its shape is still wanted
        rest = [x.new_zeros(1, *x.shape[1:]) for x in rest]
    rows, place = picked_rows(flat) if flat.device.type == "cpu" else stand_in_rows(flat)
    with _statistics_kept_unless(flat.any(), encode):
        encoded: Tensor = encode(*(x[rows] for x in rest))
    spread = encoded[place].masked_fill(~flat.view(-1, *(1,) * (encoded.ndim - 1)), 0.0)
    return spread.view(*is_present.shape, *encoded.shape[1:])


def picked_rows(is_present: Tensor) -> tuple[Tensor, Tensor]:
    """The rows to encode, those present (or the first one if none is), and where each row (R,) is among them."""
    rows = is_present.nonzero()[:, 0] if is_present.any() else is_present.new_zeros(1, dtype=torch.int64)
    return rows, (is_present.cumsum(0) - 1).clamp(min=0)


def stand_in_rows(is_present: Tensor) -> tuple[Tensor, Tensor]:
    """As `picked_rows`, but as many rows as there are: the first one present stands in for those that are not."""
    every = torch.arange(len(is_present), device=is_present.device)
    if len(every) == 0:
        return every.new_zeros(1), every
    return torch.where(is_present, every, is_present.int().argmax()), every


@contextmanager
def _statistics_kept_unless(is_known: Tensor, network: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are where is_known () is False; asks a GPU nothing.

    The pass works on copies: autograd remembers what batch norm was given, which must not change before backward.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    kept = [(norm, name, getattr(norm, name)) for norm in norms for name in ("running_mean", "running_var")]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    yield
    for norm, name, buffer in kept:
        buffer.copy_(torch.where(is_known, getattr(norm, name), buffer))
        setattr(norm, name, buffer)


def _to_float(tensors: FusionTensors) -> FusionTensors:
    values = {field.name: getattr(tensors, field.name) for field in fields(tensors)}
    return FusionTensors(**{name: x.float() if x.is_floating_point() else x for name, x in values.items()})
