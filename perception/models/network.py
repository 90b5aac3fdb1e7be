"""The whole network: three encoders that run as sensors arrive, and one fusion for each reference time.

Fusion keeps no state: what it says depends on its inputs alone, so that a restarted worker goes on as before and
bundles of several vehicles form one batch. Time is the tracker's business.
"""

import torch
from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.models.blocks import initialise
from perception.models.decoder import Decoder, MemoryBuilder
from perception.models.encoders.camera import camera_encoder
from perception.models.encoders.lidar import LidarEncoder
from perception.models.encoders.radar import RadarEncoder
from perception.models.fusion import AgeEmbedding, BevFusion
from perception.models.heads.dense import DenseHead
from perception.models.heads.depth import DepthHead
from perception.models.heads.detection import DetectionHead
from perception.models.heads.image import ImageHead
from perception.models.heads.path import PathHead, Surroundings
from perception.models.queries import DenoisingQueries, QueryInit
from perception.models.tensors import FusionInputs, FusionTensors


class PerceptionNetwork(nn.Module):
    """Any rig: 0 to 12 cameras, any number of lidars and radars, each of them present or not."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.camera_encoder = camera_encoder(config)
        self.lidar_encoder = LidarEncoder(config)
        self.radar_encoder = RadarEncoder(config)
        self.camera_age = AgeEmbedding(config.width)
        self.depth_head = DepthHead(config)
        self.bev_fusion = BevFusion(config)
        self.dense_head = DenseHead(config)
        self.query_init = QueryInit(config)
        self.memory = MemoryBuilder(config)
        self.decoder = Decoder(config)
        self.detection_head = DetectionHead(config)
        self.path_head = PathHead(config)
        self.image_head = ImageHead(config)
        initialise(self)
        for head in (self.depth_head, self.dense_head, self.detection_head, self.path_head, self.image_head):
            head.reset()

    def encode_cameras(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) uint8 RGB: (B, T, C), T = H/16 * W/16 tokens row by row."""
        features: Tensor = self.camera_encoder(images)
        return features

    def encode_lidar(self, points: Tensor, count: Tensor) -> Tensor:
        """points (B, P, 5) as `LIDAR_FIELDS`, count (B,): (B, G * G, C); several lidars are several rows."""
        features: Tensor = self.lidar_encoder(points, count)
        return features

    def encode_radar(self, points: Tensor, count: Tensor) -> Tensor:
        """points (B, P, 7) as `RADAR_FIELDS`, count (B,): (B, G * G, C)."""
        features: Tensor = self.radar_encoder(points, count)
        return features

    def image_heat(self, camera_features: Tensor) -> Tensor:
        """Camera features (B, T, C) to logits (B, classes, h, w) of box centres on the image; for training only."""
        heat: Tensor = self.image_head(camera_features)
        return heat

    def fuse(self, inputs: FusionInputs, denoising: DenoisingQueries | None = None) -> FusionTensors:
        """Features and geometry of B bundles to everything the heads say.

        denoising: noisy labels, in training only. What becomes of them stands behind the Q queries in `class_logits`,
        `boxes`, `attribute_logits` and `query_cell`; nothing else depends on them.
        """
        tokens = self._image_tokens(inputs)  # (B, N, T, C)
        depth = self.depth_head(inputs, tokens)  # (B, N, T, bins)
        bev = self.bev_fusion(inputs, tokens, depth)  # (B, C, G, G)
        heat, dense_boxes, drivable = self.dense_head(bev)
        queries = self.query_init(bev, heat, dense_boxes, denoising)
        memory = self.memory(inputs, bev, tokens)
        states = self.decoder(queries, memory)  # (D, B, Q, C)
        labels, boxes, attributes = self.detection_head(states, queries)
        objects = states[-1, :, : self.query_init.ordinary]  # (B, Q, C)
        mode_logits, waypoints, speed, curve_logits = self.path_head(
            Surroundings(
                drivable_logits=drivable.detach(),
                objects=objects,
                class_logits=labels[-1, :, : self.query_init.ordinary].detach(),
                boxes=boxes[-1, :, : self.query_init.ordinary].detach(),
                ego=inputs.ego,
            )
        )
        return FusionTensors(
            heat_logits=heat,
            dense_boxes=dense_boxes,
            drivable_logits=drivable,
            class_logits=labels,
            boxes=boxes,
            attribute_logits=attributes,
            query_cell=queries.cell,
            mode_logits=mode_logits,
            waypoints_m=waypoints,
            target_speed_mps=speed,
            curve_logits=curve_logits,
            depth_logits=depth,
        )

    def _image_tokens(self, inputs: FusionInputs) -> Tensor:
        """Camera features with their ages, (B, N, T, C); 0 for absent cameras, whatever was handed in for them."""
        aged: Tensor = inputs.camera_features + self.camera_age(inputs.camera_age_s)[:, :, None]
        return aged.masked_fill(~inputs.camera_present[:, :, None, None], 0.0)


def build_network(config: ModelConfig) -> PerceptionNetwork:
    """An untrained network with the weights of `config.seed`; the same on every machine, global state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return PerceptionNetwork(config)
