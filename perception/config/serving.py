"""Settings of `perception serve`: the vehicles, what they share, and how the service is operated."""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationError, model_validator

from perception.config.load import load_settings
from perception.config.paths import find_config
from perception.config.schema import ServiceConfig, Settings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
SHARED_RUNTIME = frozenset({"placement", "threads"})
"""Fields of `runtime` that belong to the engine, which all vehicles share."""


class VehicleConfig(Settings):
    name: Name
    """Names the vehicle in URLs, logs and metrics: letters, digits, - and _."""
    source: str
    """Where its messages come from: a recorded drive, `synthetic:`, `sim:SCENARIO`, `tail:FILE.mcap` for a recording
    that is still being written, `sensors:zenoh:KEY` for sensors that publish (`perception feed`),
    `ros2:tcp/HOST:7447?domain=0&topics=FILE&wait=5` for ROS 2 nodes on rmw_zenoh; all behind `ros2:` may be left
    out."""
    format: str | None = None
    """The drive's format; found out from the source if not given."""
    scene: str | None = None
    """Which scene of a data set with several."""
    rate: PositiveFloat = 1.0
    """Pace of a drive or a simulator, as a multiple of real time. Live sources come as they come."""
    loop: bool = False
    """Begin a drive or a scenario anew at its end, as a new run."""
    queue: str | None = None
    """URL of its results; None: `zenoh:perception/NAME/results`."""
    start: bool = True
    """Begin with the service; else wait for `POST /vehicles/NAME/start`."""
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """What is different for this vehicle, as in `service`; not the model and where it runs, which are shared."""

    @property
    def queue_url(self) -> str:
        return self.queue or f"zenoh:perception/{self.name}/results"


class HttpConfig(Settings):
    """The control endpoint: status, health, metrics, and commands."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8470
    """0 takes a free one; the log says which."""
    token_file: Path | None = None
    """A file with a secret that every request but `/healthz` and `/readyz` must bring (`Authorization: Bearer SECRET`).
    Needed where `host` is not loopback."""

    @property
    def is_loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @model_validator(mode="after")
    def _check(self) -> "HttpConfig":
        if not self.is_loopback and self.token_file is None:
            raise ValueError(f"host {self.host} can be reached by others: set token_file, or listen on 127.0.0.1")
        return self


class LogConfig(Settings):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug` writes a line for each result."""
    format: Literal["json", "text"] = "json"
    file: Path | None = None
    """None: standard error. A file that was moved away (logrotate) is begun anew."""


class TraceConfig(Settings):
    file: Path | None = None
    """Where frames and their stages go as Chrome's trace events, for https://ui.perfetto.dev; None: nowhere."""
    max_mb: PositiveFloat = 256.0
    """A file larger than this becomes `FILE.1`, in place of the one before, and a new one is begun."""
    otlp_endpoint: str | None = None
    """URL of an OpenTelemetry collector (OTLP over HTTP, as in http://127.0.0.1:4318/v1/traces); needs the extra
    `otel`."""


class ReconnectConfig(Settings):
    """A vehicle whose source, queue or engine failed begins again after a pause that doubles each time."""

    first_s: PositiveFloat = 0.5
    longest_s: PositiveFloat = 30.0
    steady_s: NonNegativeFloat = 10.0
    """A run that lasted this long counts as recovered: the next pause is `first_s` again."""

    @model_validator(mode="after")
    def _check(self) -> "ReconnectConfig":
        if self.longest_s < self.first_s:
            raise ValueError(f"longest_s {self.longest_s} is shorter than first_s {self.first_s}")
        return self


class ServeConfig(Settings):
    vehicles: Annotated[tuple[VehicleConfig, ...], Field(min_length=1, max_length=64)]
    service: ServiceConfig = ServiceConfig()
    """What all vehicles have in common, as `perception replay` has it."""
    http: HttpConfig = HttpConfig()
    logs: LogConfig = LogConfig()
    traces: TraceConfig = TraceConfig()
    reconnect: ReconnectConfig = ReconnectConfig()
    resume: Path | None = None
    """A folder that keeps the state of each vehicle's run, in a folder of the vehicle's name: a service that was killed
    goes on with the runs that it finds there (`service.runtime.resume_within_s`). None: every start begins new ones."""
    drain_s: PositiveFloat = 60.0
    """How long the end of the service waits for frames under way and queues to be emptied."""

    def service_of(self, vehicle: VehicleConfig) -> ServiceConfig:
        """`service` with what is different for `vehicle`. Its queue drops rather than wait, unless it is told to."""
        own = _merged(self.service.model_dump(exclude_unset=True), vehicle.settings)
        queue = own.setdefault("queue", {})
        queue["url"] = vehicle.queue_url
        queue.setdefault("when_full", "drop")
        return ServiceConfig.model_validate(own)

    @model_validator(mode="after")
    def _check(self) -> "ServeConfig":
        for what, values in (
            ("name", [vehicle.name for vehicle in self.vehicles]),
            ("queue", [vehicle.queue_url for vehicle in self.vehicles]),
        ):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"vehicles: {what} {twice[0]!r} is used twice; each vehicle needs its own")
        for vehicle in self.vehicles:
            self._check_settings(vehicle)
        return self

    def _check_settings(self, vehicle: VehicleConfig) -> None:
        shared = ["model"] if "model" in vehicle.settings else []
        runtime = vehicle.settings.get("runtime", {})
        shared += [f"runtime.{name}" for name in sorted(SHARED_RUNTIME & set(runtime))]
        if shared:
            raise ValueError(f"vehicle {vehicle.name}: {shared[0]} is shared by all vehicles; set it in `service`")
        try:
            small = self.service_of(vehicle).ladder.small_model
            if small not in (None, self.service.ladder.small_model):
                raise ValueError(
                    f"vehicle {vehicle.name}: ladder.small_model is shared by all vehicles; set it in `service`, and "
                    "to null here where the vehicle is to do without"
                )
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise ValueError(f"vehicle {vehicle.name}: settings.{field}: {first['msg']}") from None


def load_serve_config(name_or_path: str, overrides: tuple[str, ...] = ()) -> ServeConfig:
    """A shipped configuration's name or a YAML file, then `--set a.b=c`. Raises ConfigError that names the field."""
    return load_settings(ServeConfig, find_config("serving", name_or_path), overrides)


def _merged(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged
