"""Where fusion looks, on the device: what `geometry.py` says of one bundle, from a few numbers for each camera."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.cameras import CameraModel
from perception.core.stages import CameraView
from perception.models.backends.shapes import CAMERAS, round_up
from perception.models.backends.transfer import to_device
from perception.models.blocks import cell_centers
from perception.models.encoders.camera import STRIDE
from perception.models.geometry import camera_key
from perception.models.lenses import CAMERA_FIELDS, camera_vector, lens_column, network_camera, project_points

Function = Callable[..., tuple[Tensor, ...]]

CACHED_CAMERAS = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceViews:
    """Geometry of the N cameras of one bundle on the device; shapes as in `FusionInputs`, without the batch."""

    rays: Tensor
    origin_m: Tensor
    lift_camera: Tensor
    lift_uv: Tensor
    lift_depth_m: Tensor
    lift_valid: Tensor


class DeviceGeometry:
    """Builds `DeviceViews`; what depends on a calibration alone is made once and stays on the device.

    wrap: what makes a function fast there (`Recorded`). The number of cameras is rounded up inside, with cameras that
    see nothing.
    """

    def __init__(self, config: ModelConfig, device: torch.device, wrap: Callable[[Function], Function]) -> None:
        self._config, self._device = config, device
        self._tokens = (config.image.height_px // STRIDE) * (config.image.width_px // STRIDE)
        self._points = to_device(_lift_points(config), device)
        self._build = wrap(self._views)
        self._cameras: OrderedDict[Hashable, tuple[Tensor, Tensor]] = OrderedDict()

    def build(self, views: Sequence[CameraView]) -> DeviceViews:
        """Geometry of any number of cameras, none included."""
        slots = round_up(max(len(views), 1), CAMERAS)
        lens = torch.zeros(slots, len(CAMERA_FIELDS))
        # A camera that is not there is one too, so that every formula has a finite value.
        lens[:, [CAMERA_FIELDS.index(name) for name in ("fx", "fy", "limit")]] = 1.0
        poses = torch.eye(4).repeat(slots, 1, 1)
        is_there = torch.zeros(slots, dtype=torch.bool)
        rays = [torch.zeros(self._tokens, 3, device=self._device)] * slots
        for i, view in enumerate(views):
            lens[i], rays[i] = self._camera(view.camera)
            poses[i] = torch.from_numpy(view.reference_SE3_camera.astype(np.float32))
            is_there[i] = True
        built = self._build(*(to_device(one, self._device) for one in (lens, poses, is_there)), torch.stack(rays))
        rays_ego, origin, camera, uv, depth, is_valid = built
        return DeviceViews(
            rays=rays_ego[: len(views)],
            origin_m=origin[: len(views)],
            lift_camera=camera,
            lift_uv=uv,
            lift_depth_m=depth,
            lift_valid=is_valid,
        )

    def _camera(self, model: CameraModel) -> tuple[Tensor, Tensor]:
        """`CAMERA_FIELDS` (17,) on the host and token rays (T, 3) in camera axes on the device."""
        key = camera_key(model)
        if key not in self._cameras:
            moved, top_px = network_camera(model, self._config.image)
            rows, columns = self._config.image.height_px // STRIDE, self._config.image.width_px // STRIDE
            row, column = np.mgrid[:rows, :columns].reshape(2, -1)
            tokens = (np.stack([column, row], axis=1) + 0.5) * STRIDE - 0.5  # (T, 2) network pixels
            rays = torch.from_numpy(moved.rays(tokens).astype(np.float32))
            vector = torch.from_numpy(camera_vector(moved, top_px))
            self._cameras[key] = (vector, to_device(rays, self._device))
            if len(self._cameras) > CACHED_CAMERAS:
                self._cameras.popitem(last=False)
        self._cameras.move_to_end(key)
        return self._cameras[key]

    def _views(self, lens: Tensor, poses: Tensor, is_there: Tensor, camera_rays: Tensor) -> tuple[Tensor, ...]:
        """lens (N, 17), poses (N, 4, 4), is_there (N,), camera_rays (N, T, 3): the fields of `DeviceViews`."""
        image = self._config.image
        u, v, is_seen, distance = (x[0] for x in project_points(lens[None], poses[None], self._points[None]))  # (N, P)
        top = lens_column(lens[None, ..., None], "top_px")[0] - 0.5  # (N, 1)
        is_seen = is_seen & is_there[:, None] & (u >= -0.5) & (u < image.width_px - 0.5)
        is_seen &= (v >= top) & (v < image.height_px - 0.5)
        off_middle = torch.maximum(((u + 0.5) / image.width_px - 0.5).abs(), ((v + 0.5) / image.height_px - 0.5).abs())
        rank = torch.where(is_seen, off_middle, torch.inf)
        parts = []
        for _ in range(self._config.lift_cameras):
            least, best = rank.min(dim=0, keepdim=True)  # (1, P)
            found = least[0] < torch.inf
            at = [torch.where(found, x.gather(0, best)[0], 0.0) for x in (u, v, distance)]  # (P,) each
            parts.append((best[0], (at[0] + 0.5) / STRIDE - 0.5, (at[1] + 0.5) / STRIDE - 0.5, at[2], found))
            rank = rank.scatter(0, best, torch.inf)
        camera, column, row, depth, is_valid = (torch.stack(x, dim=-1) for x in zip(*parts, strict=True))
        rays = (camera_rays[..., None, :] * poses[:, None, :3, :3]).sum(dim=-1)  # (N, T, 3), in float32
        return rays, poses[:, :3, 3].contiguous(), camera, torch.stack([column, row], dim=-1), depth, is_valid


def _lift_points(config: ModelConfig) -> Tensor:
    """Points (P, 3) in the ego frame: every cell of the bird's-eye view at every height."""
    xy = (cell_centers(config.bev_cells) * config.range_m)[:, None]  # (G * G, 1, 2)
    heights = torch.tensor(config.lift_heights_m).view(1, -1, 1)
    both = [xy.expand(-1, heights.shape[1], -1), heights.expand(len(xy), -1, -1)]
    return torch.cat(both, dim=-1).flatten(0, 1)
