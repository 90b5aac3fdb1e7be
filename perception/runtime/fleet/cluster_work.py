"""What of a fleet runs on the cluster: the task that plays a drive, and the engines that tasks share."""

import functools
import logging
from collections import Counter
from typing import Any

import ray

from perception.config.fleet import FleetConfig
from perception.config.schema import ModelChoice, ServiceConfig
from perception.core.errors import EngineError
from perception.models.inference import InferenceModel
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.stages import open_model
from perception.runtime.fleet.drive_job import Account, DriveJob, failure, play_drive
from perception.runtime.fleet.inputs import DriveRef
from perception.runtime.fleet.shared_engine import LOAD_TIMEOUT_S, SharedEngine, SharedModel

SHARED_WORKER_CPUS = 1.0
RESTARTS = 100


@functools.lru_cache(maxsize=1)
def _model(choice_json: str) -> InferenceModel:
    """Loaded once in each worker process, which Ray uses again for the next drive."""
    return open_model(ModelChoice.model_validate_json(choice_json))


def play_here(job: DriveJob, threads: int) -> Account:
    """The task: a drive with this process's own model."""
    try:
        engine = LocalEngine(_model(job.config.model.model_dump_json()), threads=threads)
    except Exception as error:  # part of the account, as in `play_drive`
        return failure(error)
    return play_drive(job, engine) | _where()


def play_shared(job: DriveJob, actor: Any) -> Account:
    """The task: a drive whose model is in an actor."""
    try:
        engine = SharedEngine(actor)
    except EngineError as error:
        return failure(error)
    try:
        return play_drive(job, engine) | _where()
    finally:
        engine.close()


def _where() -> Account:
    return {"node": ray.get_runtime_context().get_node_id()}


class Crew:
    """Begins drives on the cluster as a configuration says."""

    def __init__(self, config: FleetConfig, service: ServiceConfig) -> None:
        self._config = config
        self._engines: list[Any] = []
        self._load: Counter[int] = Counter()
        self._engine_of: dict[str, int] = {}
        if config.engine == "shared":
            self._engines = start_engines(config, service)
        # Retries are ours, so that they are bounded together and told; Ray's own would be silent.
        options = {"max_retries": 0, "scheduling_strategy": "SPREAD"}
        cpus = SHARED_WORKER_CPUS if self._engines else float(config.threads)
        self._task = ray.remote(play_shared if self._engines else play_here).options(num_cpus=cpus, **options)
        self.cpus = cpus

    @property
    def in_flight(self) -> int:
        """Drives under way at once: as asked, or two for each place in the cluster, so that none stands idle."""
        if self._config.workers:
            return self._config.workers
        cores = _has("CPU")
        return max(1, int(cores / self.cpus)) * 2

    def begin(self, job: DriveJob) -> Any:
        """Start a drive; with shared engines on the one that has the fewest."""
        if not self._engines:
            return self._task.remote(job, self._config.threads)
        number = min(range(len(self._engines)), key=lambda index: self._load[index])
        self._load[number] += 1
        self._engine_of[job.drive.name] = number
        return self._task.remote(job, self._engines[number])

    def ended(self, drive: DriveRef) -> None:
        """A drive is no longer under way."""
        if (number := self._engine_of.pop(drive.name, None)) is not None:
            self._load[number] -= 1

    def close(self) -> None:
        for engine in self._engines:
            ray.kill(engine)


def start_engines(config: FleetConfig, service: ServiceConfig) -> list[Any]:
    """Shared engines, one for each GPU unless the configuration says how many. Raises EngineError."""
    gpus = int(_has("GPU"))
    count = config.engines or gpus or 1
    place = {"num_gpus": min(1.0, gpus / count), "num_cpus": 0} if gpus else {"num_cpus": 0}
    actor: Any = ray.remote(SharedModel).options(max_restarts=RESTARTS, max_concurrency=1000, **place)
    engines: list[Any] = [actor.remote(service.model, service.runtime, config.threads) for _ in range(count)]
    try:
        ray.get([engine.describe.remote() for engine in engines], timeout=LOAD_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise EngineError(f"the shared engines do not start: {error}") from error
    return engines


def ask_for_room(config: FleetConfig, cpus: float) -> None:
    """Tell the cluster's autoscaler what the fleet could use, so that it need not find out task by task."""
    from ray.autoscaler.sdk import request_resources

    bundles = [{"CPU": cpus}] * config.workers
    bundles += [{"GPU": 1.0}] * (config.engines if config.engine == "shared" else 0)
    try:
        request_resources(bundles=bundles)
    except Exception as error:  # a hint: a cluster that scales by itself, or not at all, has no use for it
        logging.getLogger(__name__).info("the cluster takes no hints on its size: %s", error)


def free_room() -> None:
    """Take the hint back, so that the cluster may shrink."""
    from ray.autoscaler.sdk import request_resources

    try:
        request_resources(num_cpus=0)
    except Exception as error:
        logging.getLogger(__name__).info("the cluster takes no hints on its size: %s", error)


def _has(resource: str) -> float:
    """How much of a resource the cluster has now."""
    return float(ray.cluster_resources().get(resource, 0.0))  # type: ignore[no-untyped-call]
