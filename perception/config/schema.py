"""Every setting of the service, with its default, range and meaning. Frozen; an unknown field is an error."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from perception.core.faults import FaultKind


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Milliseconds = Annotated[float, Field(ge=0, le=60_000)]
SignedMilliseconds = Annotated[float, Field(ge=-60_000, le=60_000)]


class SensorSync(Settings):
    """What the synchronizer expects of one sensor; None takes the rig's value or the default."""

    offset_ms: SignedMilliseconds | None = None
    """Signed time of its capture from the reference time."""
    tolerance_ms: Milliseconds | None = None
    """How far from the expected time a capture may be."""


class SyncConfig(Settings):
    reference: Literal["sweeps", "keyframes"] = "sweeps"
    """`sweeps`: every sweep of the reference lidar is a reference time; `keyframes`: only those the drive labels."""
    reference_order: tuple[str, ...] = ()
    """Sensors that may open a bundle, first choice first; empty: lidars, then cameras, then radars, in rig order."""
    tolerance_ms: Milliseconds = 60.0
    deadline_ms: Milliseconds = 150.0
    """How long after its opening, on the arrival clock, a bundle waits for missing sensors."""
    silence_ms: Milliseconds = 500.0
    """A reference sensor silent for so long is replaced by the next in the order, then by a timer."""
    buffer_length: Annotated[int, Field(ge=2, le=4096)] = 32
    """Messages kept for each sensor."""
    max_open: Annotated[int, Field(ge=1, le=256)] = 8
    """Bundles open at once; the oldest is closed when one more opens."""
    max_jump_s: PositiveFloat = 10.0
    """Captures that fall this far behind their arrival, or arrivals that go back by this, are off the common clock (so
    are captures ahead of it by a second). They are dropped until most sensors agree on a new clock. Also how long a
    timer stands in when every sensor is silent: a longer hole is a pause of the drive."""
    sensors: dict[str, SensorSync] = Field(default_factory=dict)


class ImageConfig(Settings):
    height_px: PositiveInt = 128
    width_px: PositiveInt = 352
    channels: tuple[PositiveInt, ...] = (16, 32, 64, 96)
    """Width of the residual stages; the last has stride 16. Of `backbone: residual` alone."""
    backbone: Literal["residual", "resnet50"] = Field(default="residual", exclude_if=lambda name: name == "residual")
    """`resnet50`: torchvision's, by the names of its weights, for starting from those (`perception weights`)."""


class LidarConfig(Settings):
    max_points: PositiveInt = 16_384
    pillar_m: PositiveFloat = 0.8
    canvas: PositiveInt = 128
    channels: tuple[PositiveInt, ...] = (32, 64, 96)
    sweeps: Annotated[int, Field(ge=1, le=20)] = Field(default=1, exclude_if=lambda count: count == 1)
    """A sweep is joined by so many less one before it of the same lidar, moved to the same reference time; the time of
    each point tells them apart. Sweeps older than a second are left out."""


class RadarConfig(Settings):
    max_points: PositiveInt = 512
    channels: PositiveInt = 32


PATH_WAYS: Final = 2
"""Path hints follow so many ways, each at several speeds."""


class ModelConfig(Settings):
    """Shape of the network; two checkpoints fit each other only if these are equal.

    A model's hash and a checkpoint's header are made of these fields. One that is added later is left out at its
    default (`exclude_if`), so that those of older models stay what they are.
    """

    name: str = "tiny"
    image: ImageConfig = ImageConfig()
    lidar: LidarConfig = LidarConfig()
    radar: RadarConfig = RadarConfig()
    bev_cells: PositiveInt = 64
    """Side of the fused bird's-eye view; its cells are `lidar.pillar_m * lidar.canvas / bev_cells` wide."""
    memory_cells: PositiveInt = 32
    """Side of the pooled view that the decoder attends to."""
    lift_heights_m: tuple[float, ...] = (-0.5, 0.5, 1.5, 3.0)
    lift_cameras: PositiveInt = 2
    """Cameras sampled for one cell at most."""
    width: PositiveInt = 96
    heads: PositiveInt = 4
    feedforward: PositiveInt = 192
    layers: PositiveInt = 2
    heatmap_queries: PositiveInt = 128
    learned_queries: PositiveInt = 16
    path_modes: PositiveInt = 6
    """`PATH_WAYS` ways, each at several speeds."""
    path_steps: PositiveInt = 6
    path_step_s: PositiveFloat = 0.5
    max_detections: PositiveInt = 144
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Detections below are not published."""
    seed: int = 0
    """Seed of the weights until trained ones are loaded."""

    @property
    def range_m(self) -> float:
        """Half the side of the square around the ego that the network sees."""
        return self.lidar.pillar_m * self.lidar.canvas / 2

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.lidar.canvas % self.bev_cells or self.bev_cells % self.memory_cells:
            raise ValueError("lidar.canvas must be a multiple of bev_cells, and that of memory_cells")
        if self.path_modes % PATH_WAYS:
            raise ValueError(f"path_modes {self.path_modes} must be a multiple of {PATH_WAYS}")
        if self.image.height_px % 16 or self.image.width_px % 16:
            raise ValueError("image sides must be multiples of 16")
        return self


class TrackerConfig(Settings):
    max_distance_m: PositiveFloat = 4.0
    """A detection further than this from a track's predicted centre does not continue it."""
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Detections below start no track (they may continue one)."""
    max_missed_s: PositiveFloat = 1.0


class SupervisionConfig(Settings):
    """How the engine's processes (placements `colocated` and `split`) are watched and replaced."""

    silent_after_s: PositiveFloat = 2.0
    """A process that gives no sign of life for so long hangs: it is killed and replaced. `--live`: 1 s."""
    work_timeout_s: PositiveFloat = 20.0
    """So does one that works on a single message or frame for so long."""
    standby: bool = False
    """Keep one more process with the model loaded, to take the place of one that is lost at once. `--live` does."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 6
    """More restarts than this within `within_s`, and no frame finished in between, end the run."""
    within_s: PositiveFloat = 120.0
    poison_after: Annotated[int, Field(ge=2, le=100)] = 3
    """A message that was in work at so many crashes is put into the quarantine."""
    quarantine: Path = Path("out/quarantine")
    """Folder for such messages: the payload, and beside it a small JSON that says what happened."""
    quarantine_limit: Annotated[int, Field(ge=0, le=100_000)] = 100
    """Messages written there by one run; further ones are counted only."""


class BatchingConfig(Settings):
    """How an engine that several sessions share puts their work together."""

    max_images: Annotated[int, Field(ge=1, le=1024)] = 24
    """Images in one pass of the camera encoder at most."""
    max_bundles: Annotated[int, Field(ge=1, le=256)] = 8
    """Sweeps, radar canvases or bundles in one pass of their network at most."""
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """How long work may wait for more to join it; it waits for nobody once every open session is in the batch."""
    max_queued: PositiveInt = 24
    """Requests of one session that wait to be encoded; with so many the session is held up."""


class HealthConfig(Settings):
    """What is looked for in sensor data, and what follows. Times and gaps are always watched."""

    content: bool = True
    """Look into images, sweeps and scans, not only at their times."""
    camera_stride: Annotated[int, Field(ge=1, le=100)] = 2
    """Of each camera's images every so manieth is decoded for it, small and grey; repeats are found in all of them."""
    calibration: bool = True
    """Compare cameras with the lidar, to find mounts that moved."""
    calibration_stride: Annotated[int, Field(ge=1, le=1000)] = 4
    """One camera, in turn, is compared at every so manieth sweep: it costs a millisecond, and mounts move slowly."""
    mask: tuple[FaultKind, ...] = (FaultKind.FROZEN, FaultKind.DARK, FaultKind.STUCK)
    """A sensor with such a fault is left out of fusion and counted as `masked`; other faults are reported only."""


class DeadlineConfig(Settings):
    """When a result must be out, and what happens where it is not. Live; a replay only tells the slack."""

    budget_ms: Milliseconds = 300.0
    """From the reference time (its capture) to publication."""
    handler: Literal["publish_late", "publish_degraded", "skip"] = "publish_late"
    """What is done about a missed deadline. `publish_late`: the result comes when it is ready. `publish_degraded`: what
    earlier results say of that time is published at the deadline, flagged; the real one goes to the tracker alone.
    `skip`: the result goes to the tracker alone."""


class LadderConfig(Settings):
    """The ladder of degradations of a live service that is too slow; without rungs there is none.

    The rungs, each with all before it: `cameras`, then `small_model`, then `skip`.
    """

    cameras: tuple[Annotated[int, Field(ge=0, le=64)], ...] = ()
    """How many cameras are left on each of the first rungs, falling: `[4, 2]`."""
    camera_order: tuple[str, ...] = ()
    """Cameras by what they are worth, the best first; the others follow in rig order."""
    small_model: str | None = None
    """A quicker model's name or checkpoint for the rung after; it is loaded beside the other."""
    skip: tuple[Annotated[int, Field(ge=2, le=100)], ...] = ()
    """On each of the last rungs one frame of so many is worked on, rising: `[2, 4]`."""
    slow_frames: Annotated[int, Field(ge=1, le=1000)] = 3
    """One rung up after so many slow frames in a row: late ones, or such as left older ones without a turn."""
    calm_frames: Annotated[int, Field(ge=1, le=100_000)] = 20
    """One rung down after so many frames in a row with headroom. Doubles each time that going down proves too early."""
    headroom: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of `deadline.budget_ms` that a frame must leave to have headroom."""

    @model_validator(mode="after")
    def _check(self) -> "LadderConfig":
        if any(later >= earlier for earlier, later in pairwise(self.cameras)):
            raise ValueError("cameras must fall from rung to rung")
        if any(later <= earlier for earlier, later in pairwise(self.skip)):
            raise ValueError("skip must rise from rung to rung")
        return self


class LiveConfig(Settings):
    """How a live service keeps up: the newest frame wins, and nothing waits for long."""

    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 2
    """Frames being encoded or fused at once; one more waits, until a newer one takes its place."""
    max_lag_ms: Annotated[float, Field(gt=0, le=60_000)] = 200.0
    """A sensor's message that is read so long after it was due is passed over. A recorded drive that is more than
    twice this behind jumps ahead where it can be entered anywhere, and is slowed down where not."""


class PublishConfig(Settings):
    predict_to: Literal["reference", "publication"] = "reference"
    """`publication`: boxes, path hints and pose are carried on to the time at which the result is published, which it
    states (`predicted_to_ns`)."""


class RuntimeConfig(Settings):
    placement: Literal["auto", "local", "split", "colocated"] = "auto"
    """`auto`: `split` where there are several devices, else `colocated`. `local`: in this process, without Ray."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads of torch in each actor; 0: all cores for `colocated` and `local`, shared out for `split`."""
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 3
    """Frames being encoded or fused at once."""
    result_timeout_s: PositiveFloat = 60.0
    """A frame that takes longer than this means that the engine hangs."""
    resume_within_s: PositiveFloat = 10.0
    """`--live --resume`: a run goes on with its tracks if its process was away for no longer; else a new one begins."""
    supervision: SupervisionConfig = SupervisionConfig()
    batching: BatchingConfig = BatchingConfig()


class QueueSecurity(Settings):
    """Who may join a queue. Secrets are never settings: a file holds them, or an environment variable.

    PERCEPTION_QUEUE_USER and PERCEPTION_QUEUE_PASSWORD, where set, stand for `user` and what `password_file` holds.
    """

    ca_file: Path | None = None
    """PEM of the authority that signs the other side's certificate; with it the connection is TLS."""
    certificate_file: Path | None = None
    """PEM of our own certificate, where the other side asks for one (mTLS)."""
    key_file: Path | None = None
    """PEM of the certificate's private key."""
    user: str | None = None
    password_file: Path | None = None
    credentials_file: Path | None = None
    """NATS alone: a .creds file, or the seed of an nkey."""

    @model_validator(mode="after")
    def _check(self) -> "QueueSecurity":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together; give both or neither")
        return self


class QueueConfig(Settings):
    url: str = "zenoh:perception/results"
    history: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Results kept for consumers that join late, while the producer lives. A broker keeps them whoever lives, and more
    where this is not set: 100 000 (`nats:`), 10 000 (`redis:`)."""
    linger_s: Annotated[float, Field(ge=0, le=3600)] = 3.0
    """How long the producer stays after the last result, so that consumers finish."""
    buffer: PositiveInt = 1000
    """Results kept by the producer while a broker is away or slow."""
    when_full: Literal["wait", "drop"] = "wait"
    """`wait`: a full buffer holds the service up and nothing is lost (replay). `drop`: the oldest is dropped and
    counted, and nothing ever waits (live)."""
    security: QueueSecurity = QueueSecurity()
    zenoh_config: Path | None = None
    """Zenoh alone: a file of its own settings (JSON5), for other networks than loopback and for access control. What it
    leaves out is as without it: endpoints and scouting on loopback."""


class LatencyConfig(Settings):
    """Transport delay assumed where a format records no arrival times."""

    camera_ms: Milliseconds = 30.0
    lidar_ms: Milliseconds = 10.0
    radar_ms: Milliseconds = 10.0
    ego_ms: Milliseconds = 2.0


class BackendChoice(Settings):
    """What runs the network, and where."""

    device: str = "auto"
    """`auto`: the GPU where there is one; else cpu, cuda or cuda:N."""
    backend: Literal["auto", "torch", "compile", "graph", "onnxruntime", "openvino"] = "auto"
    """`torch`: operation by operation; `compile`: by torch.compile; `graph`: recorded CUDA graphs; `onnxruntime` and
    `openvino`: on a CPU, with the packages of the extra `export`. `auto`: graph on a GPU; see docs/gpu.md for a CPU."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of convolutions and matrix products; coordinates and scores stay in float32. `auto`: float32 on a CPU, bfloat16
    on a GPU (float16 on one that is older)."""


class ModelChoice(BackendChoice):
    """Which model runs, and what of it is published."""

    name: str = "tiny"
    """A shipped model's name, or the path of a .safetensors checkpoint."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Detections below are not published; None takes the model's own."""
    max_detections: PositiveInt | None = None


class ServiceConfig(Settings):
    model: ModelChoice = ModelChoice()
    sync: SyncConfig = SyncConfig()
    tracker: TrackerConfig = TrackerConfig()
    health: HealthConfig = HealthConfig()
    deadline: DeadlineConfig = DeadlineConfig()
    ladder: LadderConfig = LadderConfig()
    live: LiveConfig = LiveConfig()
    publish: PublishConfig = PublishConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    queue: QueueConfig = QueueConfig()
    latency: LatencyConfig = LatencyConfig()
