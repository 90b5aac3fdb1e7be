"""Opens the engine that a configuration asks for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from perception.config.schema import RuntimeConfig, ServiceConfig
from perception.core.errors import UsageError
from perception.core.ports import Engine
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.stages import open_model
from perception.runtime.cluster import ray_cluster
from perception.runtime.ray_engine import ray_engine


@contextmanager
def open_engine(config: ServiceConfig, *, address: str | None = None) -> Iterator[Engine]:
    """The engine of `config.runtime`, with Ray around it where it needs one, for the length of a `with` block.

    Raises ModelError for an unknown or unfit model, EngineError where Ray or its actors do not start.
    """
    placement = choose_placement(config.runtime)
    if placement == "local":
        if address is not None:
            raise UsageError(
                "--address joins a Ray cluster, but placement `local` uses none; choose split or colocated"
            )
        threads = config.runtime.threads or os.cpu_count() or 1
        yield LocalEngine(open_model(config.model), threads=threads)
        return
    with ray_cluster(address):
        engine = ray_engine(
            config.model,
            placement=placement,
            threads=config.runtime.threads,
            supervision=config.runtime.supervision,
        )
        try:
            yield engine
        finally:
            engine.close()


def choose_placement(config: RuntimeConfig) -> Literal["local", "split", "colocated"]:
    """`auto` resolved: split where there are several devices, else colocated."""
    if config.placement != "auto":
        return config.placement
    return "split" if torch.cuda.device_count() > 1 else "colocated"
