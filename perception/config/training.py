"""Every setting of a training run, with its default, range and meaning. Frozen; an unknown field is an error."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from perception.config.schema import ModelConfig, Settings, SyncConfig

Share = Annotated[float, Field(ge=0, le=1)]


class DataConfig(Settings):
    """Where training frames come from. Drives are whatever `perception replay` opens, `sim:` included."""

    drives: tuple[str, ...]
    """Paths of labelled drives; a pattern with * stands for every path that fits, `seed=1..40` of a simulated one for
    a drive with each of these seeds."""
    validation: tuple[str, ...] = ()
    """Drives that are never trained on; early stopping and the logged metrics look at these."""
    store: str = "out/frames"
    """Folder that keeps the frames made from the drives: a drive is read (or rendered) once."""
    reference: Literal["sweeps", "keyframes"] = "sweeps"
    every: PositiveInt = 1
    """Take every n-th labelled reference time of a drive."""
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """Processes that read or render drives; 0: in this process."""
    max_boxes: PositiveInt = 200
    """Labels of one frame; the nearest stay."""


class AugmentConfig(Settings):
    """Drawn anew for each sample. Whatever moves the world moves the camera projections along."""

    flip: Share = 0.5
    """Probability of a mirror image left to right (the world's y), all sensors alike."""
    rotation: Share = 0.5
    """Probability of a turned world; it teaches nothing about paths, which begin along the ego's own axis."""
    rotation_deg: NonNegativeFloat = 22.5
    """A turned world is turned by up to this to either side."""
    scale: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    """The world is scaled by 1 plus or minus this."""
    translation_m: NonNegativeFloat = 0.5
    image_scale: tuple[PositiveFloat, PositiveFloat] = (0.94, 1.11)
    """Range of the zoom on each image, about a random point."""
    image_flip: Share = 0.0
    """Probability that a single image is mirrored (its projection along with it)."""
    color: NonNegativeFloat = 0.25
    """Strength of random brightness, contrast, saturation and hue."""
    intensity: NonNegativeFloat = 0.1
    """Random gain and offset of lidar intensity, so that another lidar's scale does no harm."""
    drop_points: Share = 0.1
    """Up to this share of a sweep's points is thrown away."""
    jitter_m: NonNegativeFloat = 0.02
    """Standard deviation of the noise on each coordinate of lidar points."""
    paste: Annotated[int, Field(ge=0, le=64)] = 0
    """Objects pasted from other frames of the batch (lidar and radar points and, where they fit, image patches);
    those of rare classes first."""
    paste_until: Share = 0.8
    """Pasting fades out: none after this share of the schedule (Wang et al., PointAugmenting, CVPR 2021)."""


class ModalityDropoutConfig(Settings):
    """Which sensors, and what of the route, a sample loses, so that fusion works with whatever is there."""

    start: Share = 0.1
    """Share of the schedule before which nothing is dropped."""
    subset: Share = 0.4
    """Probability of a random proper subset of camera, lidar and radar."""
    camera_alone: Share = 1 / 6
    """Of the samples that are left with a subset, those left with cameras alone, which are the slowest to learn from;
    the other five subsets share the rest evenly."""
    degrade: Share = 0.1
    """Probability of one lost camera, a cut field of view or a stale sensor."""
    route_target: Share = 0.25
    """Probability that the route's target is not told, as it is not in most recorded drives."""

    @model_validator(mode="after")
    def _check(self) -> "ModalityDropoutConfig":
        if self.subset + self.degrade > 1:
            raise ValueError("subset and degrade are probabilities of different things; together they exceed 1")
        return self


class LossConfig(Settings):
    """Weights of the losses; 0 leaves one out."""

    heatmap: NonNegativeFloat = 1.0
    dense_box: NonNegativeFloat = 0.25
    classification: NonNegativeFloat = 2.0
    box: NonNegativeFloat = 0.25
    velocity: NonNegativeFloat = 1.0
    """Of the two velocity terms within a box, beside the other terms of it."""
    attribute: NonNegativeFloat = 0.2
    path: NonNegativeFloat = 1.0
    mode: NonNegativeFloat = 0.5
    mode_softness_m: NonNegativeFloat = 0.0
    """Modes share the confidence that is asked for by exp(-distance from the driver's way / this), so that of two that
    are about as near neither is called wrong. 0: all of it for the nearest."""
    speed: NonNegativeFloat = 0.1
    curve: NonNegativeFloat = 0.5
    """Of the choice among the curves that a way may follow."""
    drivable: NonNegativeFloat = 1.0
    image_heatmap: NonNegativeFloat = 0.5
    image_depth: NonNegativeFloat = 0.5
    denoising: NonNegativeFloat = 1.0
    """Of the denoising queries, beside the matched ones."""
    denoising_queries: Annotated[int, Field(ge=0, le=1000)] = 60
    """Noisy copies of the labels given to the decoder, at most so many (Li et al., DN-DETR, CVPR 2022)."""
    dense_assignments: PositiveInt = 4
    """Cells that learn the box of one object in the dense head (one-to-many)."""


class OptimiserConfig(Settings):
    name: Literal["adamw", "adam", "rmsprop", "sgd"] = "adamw"
    peak_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    warmup: Share = 0.1
    """Share of the schedule in which the rate rises (one cycle)."""
    clip_norm: PositiveFloat = 10.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the averaged weights that are validated and shipped; the average starts short and grows up to it."""


class PathStageConfig(Settings):
    """Training of the path head alone, on features that were computed once: `perception train CONFIG --paths`."""

    draws: PositiveInt = 3
    """How often each frame's features are computed, each time augmented and robbed of sensors anew (0.05 MB each)."""
    steps: PositiveInt = 6000
    batch_size: PositiveInt = 32
    validate_every: PositiveInt = 500
    """Steps between looks at the validation drives; the head that was best there is kept."""
    optimiser: OptimiserConfig = OptimiserConfig(peak_rate=5e-4, weight_decay=0.05)


class TrainingConfig(Settings):
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """Names the run: `out/training/NAME` holds its checkpoints, logs and metrics."""
    model: str = "tiny"
    """A preset's name, or a checkpoint to start from."""
    model_settings: ModelConfig | None = None
    """Fields of the model to change; others stay as the preset or checkpoint has them."""
    train_only: tuple[str, ...] = ()
    """Parts of the network that learn, such as `path_head`; the others stay as `model` has them. Empty: all learn."""
    data: DataConfig
    sync: SyncConfig = SyncConfig()
    augment: AugmentConfig = AugmentConfig()
    dropout: ModalityDropoutConfig = ModalityDropoutConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    paths: PathStageConfig = PathStageConfig()
    steps: PositiveInt = 2000
    """Optimiser steps in all; the schedules stretch over these."""
    batch_size: PositiveInt = 8
    """Over all processes together."""
    balance: Share = 0.0
    """A class in fewer than this share of the frames has its frames drawn more often; 0: each frame once a pass."""
    micro_batch: PositiveInt | None = None
    """Frames a process takes through the network at once; their gradients are added up. None: its whole share."""
    checkpoint_every: PositiveInt = 100
    """Steps between states that a killed run resumes from."""
    validate_every: PositiveInt = 500
    validation_frames: PositiveInt = 80
    """Frames of a validation, evenly spread; with sensors missing a quarter of them."""
    patience: PositiveInt | None = None
    """Validations without a better NDS after which the run ends; None: never."""
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    """`auto`: the GPU where there is one."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads of torch; 0: all cores."""
    processes: PositiveInt = 1
    """Training processes (Ray Train where there are several)."""
    seed: Annotated[int, Field(ge=0)] = 0
