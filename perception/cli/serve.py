"""`perception serve`: the long-running service."""

import contextlib
import faulthandler
import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import click

from perception.cli.main import EXIT_DONE, EXIT_FAILED
from perception.cli.signals import first_signal
from perception.cli.standby import opened_ahead
from perception.config.serving import LogConfig, ServeConfig, load_serve_config


@click.command()
@click.argument("config_name", metavar="CONFIG")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one setting; repeatable.")
@click.option("--port", type=click.IntRange(0, 65535), help="Of the control endpoint; 0 takes a free one [8470].")
@click.option(
    "--trace", type=click.Path(path_type=Path), metavar="FILE", help="Write frames and stages for ui.perfetto.dev."
)
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="DIR", help="Keep the vehicles' runs in DIR; go on with those "
    "that it holds, if their service died.",
)  # fmt: skip
@click.option("--address", help="Join this Ray cluster instead of starting one inside this machine.")
@click.option("--check", is_flag=True, help="Check the settings, print them in full, and end.")
@click.pass_context
def serve(
    ctx: click.Context,
    *,
    config_name: str,
    overrides: tuple[str, ...],
    port: int | None,
    trace: Path | None,
    resume: Path | None,
    address: str | None,
    check: bool,
) -> None:
    """Serve the vehicles of CONFIG (a shipped name such as `example`, or a YAML file) until SIGTERM or Ctrl-C.

    Then no more messages are taken, frames under way are published, every run gets its end, and the service exits: 0
    where all of that was done, 1 where not. A second signal ends it at once; SIGUSR1 prints where each thread is.
    Status, health, metrics and commands: `perception ctl`, or HTTP on 127.0.0.1:8470 (docs/operations.md).
    """
    named = {"http.port": port, "traces.file": trace, "resume": resume}
    extra = [f"{field}={json.dumps(value, default=str)}" for field, value in named.items() if value is not None]
    config = load_serve_config(config_name, (*overrides, *extra))
    if check:
        click.echo(config.model_dump_json(indent=2))
        return
    ctx.exit(EXIT_DONE if _serve(config, address) else EXIT_FAILED)


def _serve(config: ServeConfig, address: str | None) -> bool:
    """Whether everything was drained."""
    # Imported here: torch and Ray take seconds, which `--help` and `--check` need not wait for.
    from perception.runtime.service import Service, open_tiers
    from perception.runtime.service_http import ControlServer, listen
    from perception.runtime.service_log import log
    from perception.runtime.service_notify import notify

    with contextlib.ExitStack() as stack:
        engine = opened_ahead(stack, lambda: open_tiers(config.service, address=address))
        listener = stack.enter_context(contextlib.closing(listen(config.http)))
        stack.enter_context(_logging_to(config.logs))
        service = Service(config, address=address, engine=engine)
        stack.enter_context(first_signal(service.shut_down))
        faulthandler.register(signal.SIGUSR1)
        stack.callback(faulthandler.unregister, signal.SIGUSR1)
        server = stack.enter_context(contextlib.closing(ControlServer(service, config.http, listener)))
        log(logging.INFO, "control endpoint listens", url=server.url)

        def ready() -> None:
            notify("READY=1")
            log(logging.INFO, "service is ready", vehicles=[vehicle.name for vehicle in config.vehicles])

        try:
            return service.run(ready)
        finally:
            notify("STOPPING=1")


@contextlib.contextmanager
def _logging_to(config: LogConfig) -> Iterator[None]:
    from perception.runtime.service_log import set_up_logging

    handler = set_up_logging(config)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
