"""Opens the engine that a configuration asks for."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Literal

import torch

from perception.config.schema import ModelChoice, RuntimeConfig, ServiceConfig
from perception.core.errors import UsageError
from perception.core.ports import Engine
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.stages import open_model
from perception.pipeline.tiers import Tiers
from perception.runtime.cluster import ray_cluster
from perception.runtime.ray_engine import ray_engine

StartEngine = Callable[[ModelChoice], Engine]


@contextmanager
def open_engine(config: ServiceConfig, *, address: str | None = None) -> Iterator[Engine]:
    """The engine of `config.runtime`, with Ray around it where it needs one, for the length of a `with` block.

    Raises ModelError for an unknown or unfit model, EngineError where Ray or its actors do not start.
    """
    with engine_starter(config.runtime, address=address) as start, ExitStack() as stack:
        yield _with_tiers([stack.enter_context(closing(start(choice))) for choice in _models(config)])


@contextmanager
def engine_starter(config: RuntimeConfig, *, address: str | None = None) -> Iterator[StartEngine]:
    """What starts an engine for a model, any number of times, with Ray around them for the length of a `with` block.

    The caller closes the engines. Raises what `open_engine` raises, the starter too.
    """
    placement = choose_placement(config)
    if placement == "local":
        if address is not None:
            raise UsageError(
                "--address joins a Ray cluster, but placement `local` uses none; choose split or colocated"
            )
        threads = config.threads or os.cpu_count() or 1
        yield lambda model: LocalEngine(open_model(model), threads=threads)
        return
    with ray_cluster(address):
        yield lambda model: ray_engine(
            model, placement=placement, threads=config.threads, supervision=config.supervision
        )


def _models(config: ServiceConfig) -> list[ModelChoice]:
    """The model, then that of the ladder of degradations where there is one."""
    small = config.ladder.small_model
    return [config.model] if small is None else [config.model, config.model.model_copy(update={"name": small})]


def _with_tiers(engines: Sequence[Engine]) -> Engine:
    return engines[0] if len(engines) == 1 else Tiers(tuple(engines))


def choose_placement(config: RuntimeConfig) -> Literal["local", "split", "colocated"]:
    """`auto` resolved: split where there are several devices, else colocated."""
    if config.placement != "auto":
        return config.placement
    return "split" if torch.cuda.device_count() > 1 else "colocated"
