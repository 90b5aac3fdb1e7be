"""Options that several commands share."""

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from perception.config.load import load_service_config
from perception.config.schema import ServiceConfig

Command = TypeVar("Command", bound=Callable[..., Any])


class RateType(click.ParamType[float]):
    """`max` or a positive multiple of real time."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if value == "max":
            return math.inf
        try:
            rate = float(value)
        except ValueError:
            rate = 0.0
        if not 0 < rate < math.inf:
            self.fail(f"{value!r} is neither `max` nor a positive number", param, ctx)
        return rate


def service_options(command: Command) -> Command:
    """Options of every command that runs the service."""
    for option in reversed(
        (
            click.option("--model", help="A model's name, or its .safetensors file [default: tiny]."),
            click.option(
                "--queue", "queue_url", metavar="URL", help="Where results go [default: zenoh:perception/results]."
            ),
            click.option(
                "--placement",
                type=click.Choice(["auto", "local", "split", "colocated"]),
                help="Where the model runs: in this process (local), in one Ray actor (colocated), or in one actor "
                "for each sensor kind and one for fusion (split). auto: split where there are several devices.",
            ),
            click.option("--address", help="Join this Ray cluster instead of starting one inside this machine."),
            click.option(
                "--config", "config_name", metavar="NAME|FILE", help="Settings: a shipped name or a YAML file."
            ),
            click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one setting; repeatable."),
        )
    ):
        command = option(command)
    return command


def output_options(command: Command) -> Command:
    """How a command speaks."""
    for option in reversed(
        (
            click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
            click.option("--quiet", is_flag=True, help="Print errors only."),
        )
    ):
        command = option(command)
    return command


def service_config(
    config_name: str | None,
    overrides: tuple[str, ...],
    *,
    model: str | None,
    queue_url: str | None,
    placement: str | None,
) -> ServiceConfig:
    """The settings after the command line's own options, which win over files and `--set`."""
    named = {"model.name": model, "queue.url": queue_url, "runtime.placement": placement}
    extra = [f"{field}={json.dumps(value)}" for field, value in named.items() if value is not None]
    return load_service_config(config_name, [*overrides, *extra])
