"""Training in several processes of this machine through Ray Train: together they do what one process would do."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from torch import distributed

from perception.config.training import TrainingConfig
from perception.core.errors import ConfigError, EngineError, PerceptionError
from perception.runtime.cluster import ray_cluster
from perception.training.frames import TrainingFrame
from perception.training.log import Listener, LogFollower
from perception.training.start import first_network, training_device
from perception.training.state import Identity
from perception.training.trainer import Trainer
from perception.training.workers import Workers

STOP = "stop"
"""A file of this name in the run's folder asks the workers to save and stop."""

POLL_S = 0.5
LEAVE_S = 60.0
"""How long workers may take to save and leave when the caller is interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What every worker is told; it travels between processes. folder: absolute."""

    config: TrainingConfig
    train: Sequence[TrainingFrame]
    validation: Sequence[TrainingFrame]
    identity: Identity
    folder: Path
    until_s: float | None = None
    until_step: int | None = None


def train_in_processes(job: Job, listener: Listener, should_stop: Callable[[], bool] = lambda: False) -> None:
    """Train in `config.processes` processes of an embedded Ray, closed to strangers, until all have ended.

    Every worker takes an equal part of each step's batch. What they did is in the folder's state. Raises ConfigError
    where the batch cannot be dealt out equally, and what a worker raised.
    """
    count, batch = job.config.processes, job.config.batch_size
    if batch % count:
        raise ConfigError(f"batch_size {batch} must be a multiple of processes {count}")
    job.folder.mkdir(parents=True, exist_ok=True)
    stop = job.folder / STOP
    for left in (stop, _rendezvous(job)):
        left.unlink(missing_ok=True)
    use_gpu = training_device(job.config.device).type == "cuda"
    with ray_cluster(num_cpus=count):
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job},
            torch_config=_OwnRendezvous(),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=use_gpu, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name="workers", storage_path=str(job.folder / "ray")),
        )
        fit = _Fit(trainer)
        follower = LogFollower(job.folder, listener, job.config.steps)
        try:
            while fit.is_alive():
                fit.join(POLL_S)
                follower.poll()
                if should_stop():
                    stop.touch()
        finally:
            if fit.is_alive():
                # Ray would abort the whole process if it went while a thread is waiting inside it.
                stop.touch()
                fit.join(LEAVE_S)
        fit.check()


class _OwnRendezvous(TorchConfig):
    """Leaves it to the workers to find each other: Ray's way would listen on every interface, to anybody."""

    @property
    def backend_cls(self) -> type[Backend]:
        return Backend


class _Fit(threading.Thread):
    """Runs Ray Train beside the main thread, where it would take Ctrl-C for itself and kill the workers."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="ray-train", daemon=True)
        self._trainer = trainer
        self._error: TrainingFailedError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except TrainingFailedError as error:
            self._error = error

    def check(self) -> None:
        """Raise what went wrong: an error of ours as itself."""
        if isinstance(self._error, WorkerGroupError):
            for failure in self._error.worker_failures.values():
                cause = getattr(failure, "_base_exc", failure)
                if isinstance(cause, PerceptionError):
                    raise cause
        if self._error is not None:
            raise EngineError(f"a training process failed: {self._error}") from self._error


def _work(settings: dict[str, Any]) -> None:
    """What each worker does."""
    job: Job = settings["job"]
    config, place = job.config, get_context()
    workers = Workers(rank=place.get_world_rank(), count=place.get_world_size())
    device = training_device(config.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // workers.count))
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=_rendezvous(job).as_uri(),
        rank=workers.rank,
        world_size=workers.count,
    )
    try:
        with Trainer(
            config,
            first_network(config),
            job.train,
            job.validation,
            job.folder,
            identity=job.identity,
            device=device,
            workers=workers,
        ) as trainer:
            trainer.run(until_step=job.until_step, until_s=job.until_s, should_stop=(job.folder / STOP).exists)
            workers.wait()
    finally:
        distributed.destroy_process_group()


def _rendezvous(job: Job) -> Path:
    """The file through which the workers find each other."""
    return job.folder / "rendezvous"
