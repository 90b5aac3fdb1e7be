"""Starts Ray inside this process's machine, closed to strangers, or joins a running cluster."""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, not in its stub

from perception.core.errors import EngineError

_AUTH_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
OBJECT_STORE_BYTES = 512 * 1024 * 1024


@contextmanager
def ray_cluster(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """Ray for the length of a `with` block.

    Without `address` an embedded Ray starts: this machine only, no dashboard, `num_cpus` cores (all if None). Some of
    its ports listen on every interface whatever we ask for, so nobody gets in without a token that is made anew each
    time and known to its own processes only. With `address` (`ray://host:port`, `host:port`, `auto`) a running cluster
    is joined; its token, if it has one, is taken from Ray's own environment variables. Raises EngineError where that
    fails.
    """
    if ray.is_initialized():
        raise EngineError("Ray is running in this process already; close it first")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Threads of torch that wait for each other spin; beside other busy processes on few cores, shorter is much faster.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # Ray gives its workers a low priority (nice 15): every other process would hold up the model.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray remembers its last 100,000 calls, for a dashboard that is not there; our signs of life are four a second.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    # Ray would hide the GPUs from actors that ask for none; placement decides that, not Ray.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    before = {name: os.environ.get(name) for name in _AUTH_VARIABLES}
    if address is None:
        _use_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_TOKEN_PATH": None})
    try:
        if address is None:
            ray.init(
                address="local",  # or Ray would join whatever cluster this machine runs already
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, OSError, TimeoutError, ValueError) as error:
        _use_token(before)
        target = f"join the Ray cluster at {address}" if address else "start Ray"
        raise EngineError(f"cannot {target}: {error}") from error
    _restore_sigterm(on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()
        _use_token(before)


def _restore_sigterm(handler: Any) -> None:
    """Put the program's own handler back: Ray's ends the process without any clean-up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _use_token(variables: dict[str, str | None]) -> None:
    """Set or remove Ray's variables, and have Ray read them: it does so by itself only once, when it is imported."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
