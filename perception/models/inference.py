"""The network as the service uses it: payloads in, detections and path hints out, one bundle at a time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.cameras import CameraModel
from perception.core.errors import ModelError
from perception.core.messages import Command, Signal
from perception.core.stages import CameraView, FuseRequest, FusionOutput, ModelInfo
from perception.models.backends.contract import Backend
from perception.models.backends.lanes import FUSION
from perception.models.backends.torch_backend import TorchBackend
from perception.models.device_front import DeviceFront
from perception.models.encoders.camera import STRIDE
from perception.models.geometry import ViewGeometry
from perception.models.network import PerceptionNetwork
from perception.models.postprocess import to_dense, to_detections, to_path_hints
from perception.models.preprocess import decode_image, pack_points, pack_radar
from perception.models.tensors import COMMANDS, SIGNALS, FusionInputs, FusionTensors, collate

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """What `InferenceModel.fuse` takes, in one piece: a request and the features that it names, in its order."""

    request: FuseRequest
    cameras: Sequence[Tensor]
    lidars: Sequence[Tensor]
    radar: Tensor | None


class InferenceModel:
    """A network ready to run. Features are contiguous float32 tensors where the backend is, on a CPU or a GPU.

    The caller sets torch's threads. Fusion keeps no state; the only thing remembered is a cache of calibrations.
    front: what prepares payloads on the device; None where the host does it (`preprocess.py`).
    """

    def __init__(
        self,
        network: PerceptionNetwork,
        *,
        trained: bool,
        backend: Backend | None = None,
        front: DeviceFront | None = None,
    ) -> None:
        """backend: runs `network`; None: torch on the CPU in float32. The hash is of the weights as given."""
        self.config: ModelConfig = network.config
        self.info = ModelInfo(
            name=self.config.name, hash=model_hash(network), trained=trained, lidar_sweeps=self.config.lidar.sweeps
        )
        self.backend: Backend = TorchBackend(network) if backend is None else backend
        self.front = front
        self.geometry = ViewGeometry(self.config)

    @property
    def camera_shape(self) -> tuple[int, int]:
        """Shape (T, C) of one camera's features."""
        image = self.config.image
        return (image.height_px // STRIDE) * (image.width_px // STRIDE), self.config.width

    @property
    def bev_shape(self) -> tuple[int, int]:
        """Shape (G * G, C) of a lidar's or the radars' features."""
        return self.config.bev_cells**2, self.config.width

    def encode_camera(self, data: bytes, camera: CameraModel) -> Tensor:
        """Features (T, C) of one compressed image. Raises PayloadError where it cannot be decoded."""
        return self.encode_image(decode_image(data, self.config.image, camera.width_px, camera.height_px))

    def encode_image(self, image: U8) -> Tensor:
        """Features (T, C) of one decoded image (3, H, W) uint8 RGB at the network's size."""
        return self.backend.encode_cameras(torch.from_numpy(image)[None])[0]

    def encode_lidar(self, points_ego_m: F32, intensity: F32, offset_s: F32 | None = None) -> Tensor:
        """Features (G * G, C) of one sweep, moved to the reference time; see `pack_points` for the arguments."""
        return self.encode_packed_lidar(*pack_points(points_ego_m, intensity, offset_s, self.config))

    def encode_packed_lidar(self, points: F32, count: NDArray[np.int64]) -> Tensor:
        """Features (G * G, C) of one sweep's points (P, 5), as `pack_points` gives them."""
        return self.backend.encode_lidar(torch.from_numpy(points)[None], torch.from_numpy(count[None]))[0]

    def encode_radar(self, points_ego_m: F32, rcs_dbsm: F32, velocity_mps: F32, offset_s: F32 | None = None) -> Tensor:
        """Features (G * G, C) of all radars' returns together; see `pack_radar` for the arguments."""
        return self.encode_packed_radar(*pack_radar(points_ego_m, rcs_dbsm, velocity_mps, offset_s, self.config))

    def encode_packed_radar(self, points: F32, count: NDArray[np.int64]) -> Tensor:
        """Features (G * G, C) of all radars' returns (P, 7), as `pack_radar` gives them."""
        return self.backend.encode_radar(torch.from_numpy(points)[None], torch.from_numpy(count[None]))[0]

    def encode_images(self, images: Sequence[U8]) -> list[Tensor]:
        """Features (T, C) of each of several decoded images, in one pass; equal to `encode_image` of each to 1e-4."""
        return list(self.backend.encode_cameras(torch.from_numpy(np.stack(images))).unbind())

    def encode_packed_lidars(self, points: Sequence[F32], counts: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        """Features (G * G, C) of each of several sweeps (P, 5), in one pass; any number of lidars and vehicles."""
        stacked, count = torch.from_numpy(np.stack(points)), torch.from_numpy(np.stack(counts))
        return list(self.backend.encode_lidar(stacked, count).unbind())

    def encode_packed_radars(self, points: Sequence[F32], counts: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        """Features (G * G, C) of the radar returns (P, 7) of each of several bundles, in one pass."""
        stacked, count = torch.from_numpy(np.stack(points)), torch.from_numpy(np.stack(counts))
        return list(self.backend.encode_radar(stacked, count).unbind())

    def fuse_bundles(self, bundles: Sequence[Bundle]) -> list[FusionOutput]:
        """As `fuse` for each of several bundles, in one pass; those with fewer cameras or lidars are padded with
        absent ones. Raises ModelError where one of them does not fit."""
        with self.backend.lane(FUSION):
            inputs = collate([self.inputs(one.request, one.cameras, one.lidars, one.radar) for one in bundles])
            tensors = self.run(inputs)
        return [
            FusionOutput(
                detections=to_detections(tensors, self.config, row),
                path_hints=to_path_hints(tensors, self.config, row),
                failures={},
                stage_latency_ns={},
                dense=to_dense(tensors, row) if bundle.request.keep_dense else {},
            )
            for row, bundle in enumerate(bundles)
        ]

    def fuse(
        self, request: FuseRequest, cameras: Sequence[Tensor], lidars: Sequence[Tensor], radar: Tensor | None
    ) -> FusionOutput:
        """Fuse one bundle. Features are in the order of the request; `failures` and latencies are the engine's to fill.

        Raises ModelError where the features do not fit the request.
        """
        with self.backend.lane(FUSION):
            tensors = self.run(self.inputs(request, cameras, lidars, radar))
        return FusionOutput(
            detections=to_detections(tensors, self.config),
            path_hints=to_path_hints(tensors, self.config),
            failures={},
            stage_latency_ns={},
            dense=to_dense(tensors) if request.keep_dense else {},
        )

    def run(self, inputs: FusionInputs) -> FusionTensors:
        """The fusion network on a batch of any size; its answer on the CPU (see `Backend.fuse`)."""
        return self.backend.fuse(inputs)

    @torch.inference_mode()
    def inputs(
        self, request: FuseRequest, cameras: Sequence[Tensor], lidars: Sequence[Tensor], radar: Tensor | None
    ) -> FusionInputs:
        """A batch of one bundle; only present sensors are in it."""
        self._check(request, cameras, lidars, radar)
        device = self.backend.device
        with self.backend.lane(FUSION):
            self.backend.wait_for([*cameras, *lidars, *([] if radar is None else [radar])])
            return FusionInputs(
                **self._views(request.cameras),
                camera_features=_stack(cameras, self.camera_shape, device)[None],
                camera_present=torch.ones(1, len(cameras), dtype=torch.bool),
                camera_age_s=_seconds([view.age_ns for view in request.cameras])[None],
                lidar_features=_stack(lidars, self.bev_shape, device)[None],
                lidar_present=torch.ones(1, len(lidars), dtype=torch.bool),
                lidar_age_s=_seconds(request.lidar_age_ns)[None],
                radar_features=(torch.zeros(self.bev_shape, device=device) if radar is None else radar.to(device))[
                    None
                ],
                radar_present=torch.tensor([radar is not None]),
                radar_age_s=_seconds([request.radar_age_ns or 0]),
                ego=torch.from_numpy(ego_vector(request))[None],
            )

    def _views(self, cameras: Sequence[CameraView]) -> dict[str, Tensor]:
        """The geometry among the fields of `FusionInputs`, made on the device where there is a front."""
        if self.front is not None:
            there = self.front.geometry.build(cameras)
            tensors = {field.name: getattr(there, field.name) for field in fields(there)}
        else:
            here = self.geometry.build(cameras)
            tensors = {field.name: torch.from_numpy(getattr(here, field.name)) for field in fields(here)}
        names = {"rays": "camera_rays", "origin_m": "camera_origin_m"}
        return {names.get(name, name): tensor[None] for name, tensor in tensors.items()}

    def _check(
        self, request: FuseRequest, cameras: Sequence[Tensor], lidars: Sequence[Tensor], radar: Tensor | None
    ) -> None:
        if len(cameras) != len(request.cameras) or len(lidars) != len(request.lidar_age_ns):
            raise ModelError(
                f"the request names {len(request.cameras)} cameras and {len(request.lidar_age_ns)} lidars, but there "
                f"are features of {len(cameras)} and {len(lidars)}"
            )
        for kind, features, shape in (
            ("camera", cameras, self.camera_shape),
            ("lidar", lidars, self.bev_shape),
            ("radar", [] if radar is None else [radar], self.bev_shape),
        ):
            for one in features:
                if tuple(one.shape) != shape:
                    raise ModelError(f"{kind} features are {tuple(one.shape)}, but {self.config.name} takes {shape}")


def ego_vector(request: FuseRequest) -> F32:
    """How the ego moves and where it is told to go, (E,) float32 in the order of `EGO_FIELDS`."""
    limit, distance = request.speed_limit_mps, request.route_distance_m
    numbers = [request.speed_mps, request.yaw_rate_radps]
    for value in (limit, distance):
        numbers += [value or 0.0, float(value is not None)]
    target = request.route_target_m
    numbers += [0.0, 0.0, 0.0] if target is None else [*target.tolist(), 1.0]
    command = [float(request.command is Command(name)) for name in COMMANDS]
    signal = [float(request.signal is Signal(name)) for name in SIGNALS]
    return np.array(numbers + command + signal, dtype=np.float32)


def model_hash(network: PerceptionNetwork) -> str:
    """First 16 hex digits of a SHA-256 over the configuration and all weights."""
    digest = hashlib.sha256(network.config.model_dump_json().encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _stack(features: Sequence[Tensor], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Features on `device`; some may come from another process, and be on the CPU."""
    return torch.stack([one.to(device) for one in features]) if features else torch.zeros(0, *shape, device=device)


def _seconds(ages_ns: Sequence[int]) -> Tensor:
    return torch.tensor([age / 1e9 for age in ages_ns], dtype=torch.float32)
