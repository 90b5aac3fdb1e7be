"""The path head trained alone: what it is given is computed once for each frame, so that a step costs milliseconds.

Everything before the head stays as it is. A head that is trained along with the rest sees each way a few times; paths
need many looks at few routes, and the rest need not be computed for each of them.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from torch import Tensor

from perception.config.training import TrainingConfig
from perception.core.errors import DriveError
from perception.models.heads.path import PathHead, Surroundings, constant_arc
from perception.models.network import PerceptionNetwork
from perception.training.augment import augment
from perception.training.average import Average
from perception.training.batch import TrainingBatch
from perception.training.collate import collate
from perception.training.dropout import drop_modalities
from perception.training.forward import forward
from perception.training.frames import TrainingFrame
from perception.training.losses_path import path_losses
from perception.training.optimiser import Optimiser
from perception.training.view_geometry import view_geometry

FEATURE_BATCH: Final = 4

_HALVED: Final = frozenset({"objects", "class_logits", "drivable_logits"})

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathSamples:
    """What a path head is given, as `Surroundings` for S samples (large parts as float16), and what the driver did.

    path_m, path_known, target_speed_mps: as in `TrainingBatch`.
    """

    drivable_logits: Tensor
    objects: Tensor
    class_logits: Tensor
    boxes: Tensor
    ego: Tensor
    path_m: Tensor
    path_known: Tensor
    target_speed_mps: Tensor

    def __len__(self) -> int:
        return len(self.ego)

    def rows(self, index: Tensor) -> "PathSamples":
        return PathSamples(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathAnswer:
    """As in `FusionTensors`."""

    mode_logits: Tensor
    waypoints_m: Tensor
    target_speed_mps: Tensor
    curve_logits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PathScores:
    """Mean distances in metres from where the driver went, and error of the speed to aim for in m/s.

    arc_ade_m: of an ego that just drives on.
    """

    surest_ade_m: float
    min_ade_m: float
    arc_ade_m: float
    speed_mps: float

    @property
    def total_m(self) -> float:
        """What the best head is chosen by: the surest way alone is near just driving on before anything is learned."""
        return self.surest_ade_m + self.min_ade_m

    def __str__(self) -> str:
        return (
            f"surest way {self.surest_ade_m:.2f} m off, best {self.min_ade_m:.2f} m, just driving on "
            f"{self.arc_ade_m:.2f} m; speed {self.speed_mps:.2f} m/s"
        )


def train_paths(
    network: PerceptionNetwork,
    train: Sequence[TrainingFrame],
    validation: Sequence[TrainingFrame],
    config: TrainingConfig,
    device: torch.device,
    progress: Progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[PathScores, PathScores]:
    """Train the path head of `network` in place; its scores on the validation frames before and after.

    The head that was best there is kept. Raises DriveError where no frame of either kind knows where the ego went.
    """
    stage = config.paths
    network.to(device).eval()
    progress("computing what the path head is given")
    known = path_samples(network, train, config, device, draws=stage.draws)
    judged = path_samples(network, validation, config, device, draws=0)
    if not len(known) or not len(judged):
        raise DriveError(
            "no frame to train on, or none to validate with, is followed by the seconds that a path covers"
        )
    head = network.path_head.requires_grad_(True)
    before = best = score_paths(head, judged)
    kept = copy.deepcopy(head.state_dict())
    optimiser, average = Optimiser(head, stage.optimiser, stage.steps), Average(head, stage.optimiser.ema_decay)
    random = torch.Generator().manual_seed(config.seed)
    progress(f"{len(known)} samples; before: {before}")
    for step in range(stage.steps):
        chosen = torch.randint(len(known), (stage.batch_size,), generator=random)
        loss = _step(head, optimiser, known.rows(chosen.to(device)), config, step)
        average.update(step)
        if (step + 1) % stage.validate_every == 0 or step + 1 == stage.steps:
            scores = score_paths(average.network, judged)
            progress(f"step {step + 1} of {stage.steps}, loss {float(loss):.3f}: {scores}")
            if scores.total_m < best.total_m:
                best, kept = scores, copy.deepcopy(average.network.state_dict())
            if should_stop():
                break
    head.load_state_dict(kept)
    return before, best


@torch.no_grad()
def path_samples(
    network: PerceptionNetwork,
    frames: Sequence[TrainingFrame],
    config: TrainingConfig,
    device: torch.device,
    *,
    draws: int,
) -> PathSamples:
    """What the path head of a network in eval mode is given for frames, each `draws` times; 0: once, as they are.

    Worlds are not turned, as paths begin along the ego's own axis, and nothing is pasted.
    """
    given: list[Surroundings] = []
    hook = network.path_head.register_forward_pre_hook(lambda _, arguments: given.append(*arguments))
    parts: list[PathSamples] = []
    try:
        for draw in range(max(1, draws)):
            for start in range(0, len(frames), FEATURE_BATCH):
                some = [frame for frame in frames[start : start + FEATURE_BATCH] if frame.path_known.any()]
                if not some:
                    continue
                batch = collate(some, network.config, config.data.max_boxes).to(device)
                if draws:
                    batch = _drawn(batch, network, config, (config.seed, draw, start))
                forward(network, batch, view_geometry(batch, network.config))
                parts.append(_sample(given.pop(), batch))
    finally:
        hook.remove()
    if not parts:
        nothing = torch.zeros(0)
        return PathSamples(**{field.name: nothing for field in fields(PathSamples)})
    names = [field.name for field in fields(PathSamples)]
    return PathSamples(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def score_paths(head: PathHead, samples: PathSamples) -> PathScores:
    """How far a head's ways are from those driven."""
    errors: list[Tensor] = []
    times_s = torch.arange(1, head.steps + 1, device=samples.ego.device) * head.step_s
    with torch.inference_mode():
        for start in range(0, len(samples), 64):
            some = samples.rows(torch.arange(start, min(start + 64, len(samples))))
            answer = answer_of(head, some)
            arc = constant_arc(some.ego[:, 0], some.ego[:, 1], times_s)
            modes = _distance(answer.waypoints_m, some)
            surest = modes.gather(1, answer.mode_logits.argmax(dim=1, keepdim=True))[:, 0]
            speed = (answer.target_speed_mps - some.target_speed_mps).abs()
            errors.append(torch.stack([surest, modes.amin(dim=1), _distance(arc[:, None], some)[:, 0], speed], dim=1))
    surest, best, arc_m, speed_mps = torch.cat(errors).nanmean(dim=0).tolist()
    return PathScores(surest_ade_m=surest, min_ade_m=best, arc_ade_m=arc_m, speed_mps=speed_mps)


def answer_of(head: PathHead, samples: PathSamples) -> PathAnswer:
    given = Surroundings(**{field.name: getattr(samples, field.name).float() for field in fields(Surroundings)})
    logits, waypoints, speed, curve = head(given)
    return PathAnswer(mode_logits=logits, waypoints_m=waypoints, target_speed_mps=speed, curve_logits=curve)


def _step(head: PathHead, optimiser: Optimiser, samples: PathSamples, config: TrainingConfig, step: int) -> Tensor:
    losses = path_losses(answer_of(head, samples), samples, config.loss.mode_softness_m)
    loss = torch.stack([getattr(config.loss, name) * value for name, value in losses.items()]).sum()
    optimiser.zero()
    torch.autograd.backward(loss)
    optimiser.step(step, loss.detach())
    return loss.detach()


def _drawn(
    batch: TrainingBatch, network: PerceptionNetwork, config: TrainingConfig, seed: Sequence[int]
) -> TrainingBatch:
    """The batch augmented and robbed of sensors as `seed` says."""
    number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
    random = torch.Generator(batch.ego.device).manual_seed(number)
    quiet = config.augment.model_copy(update={"rotation": 0.0, "paste": 0})
    return drop_modalities(augment(batch, quiet, network.config, random, 1.0), config.dropout, random, 1.0)


def _sample(given: Surroundings, batch: TrainingBatch) -> PathSamples:
    kept = {field.name: getattr(given, field.name) for field in fields(Surroundings)}
    return PathSamples(
        **{name: value.half() if name in _HALVED else value.clone() for name, value in kept.items()},
        path_m=batch.path_m,
        path_known=batch.path_known,
        target_speed_mps=batch.target_speed_mps,
    )


def _distance(ways_m: Tensor, samples: PathSamples) -> Tensor:
    """Mean distance (S, modes) of ways (S, modes, W, 2) from those driven, over the times where these are known."""
    is_known = samples.path_known  # (S, W)
    wanted = torch.where(is_known[..., None], samples.path_m, 0.0)  # (S, W, 2)
    gap = (ways_m - wanted[:, None]).norm(dim=-1) * is_known[:, None]  # (S, modes, W)
    mean: Tensor = gap.sum(dim=-1) / is_known.sum(dim=-1, keepdim=True)
    return mean
