"""The service's control endpoint over HTTP: status, health, metrics, and commands for vehicles and model."""

import hmac
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from perception.config.serving import HttpConfig
from perception.core.errors import ConfigError, EngineError, ModelError, PerceptionError, UsageError
from perception.runtime.service import Service, UnknownVehicleError
from perception.runtime.service_engine import NotNowError
from perception.runtime.service_tiers import Tier

MAX_BODY_BYTES = 64 * 1024
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Probes carry no secret, and learn nothing but yes or no."""


class ModelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /model`. name: of a model, or a checkpoint's path; tier: which of the service's it replaces."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    tier: Tier = "full"


Handler = Callable[[Request], Awaitable[Response]]


def listen(config: HttpConfig) -> socket.socket:
    """The socket of the endpoint. Raises UsageError where the port is taken or the address is not this machine's."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A port whose last service has just ended may be taken again; one that is listened on may not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {config.host} port {config.port}: {error.strerror}; "
            "stop who uses it, or set http.port (0 takes a free one)"
        ) from None
    return listener


class ControlServer:
    """Serves `service` on `listener` from a thread of its own. Raises ConfigError where the token cannot be read."""

    def __init__(self, service: Service, config: HttpConfig, listener: socket.socket) -> None:
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        app = _Guard(control_app(service), read_token(config.token_file), config)
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5)
        )
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._listener])


def read_token(path: Path | None) -> str | None:
    """The secret in `path`. Raises ConfigError where there is none."""
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"http.token_file: {path} cannot be read ({error})") from None
    if len(token) < 16:
        raise ConfigError(f"http.token_file: the secret in {path} is shorter than 16 characters")
    return token


def control_app(service: Service) -> Starlette:
    """The endpoint without its guard."""
    control = _Control(service)
    vehicle = "/vehicles/{name}"
    return Starlette(
        routes=[
            Route("/status", control.status),
            Route("/healthz", control.health),
            Route("/readyz", control.ready),
            Route("/metrics", control.metrics),
            Route(f"{vehicle}/start", control.start, methods=["POST"]),
            Route(f"{vehicle}/stop", control.stop, methods=["POST"]),
            Route(f"{vehicle}/drain", control.drain, methods=["POST"]),
            Route("/model", control.model, methods=["POST"]),
            Route("/shutdown", control.shutdown, methods=["POST"]),
        ],
        exception_handlers={404: _not_found, 405: _not_allowed, PerceptionError: _refused},
    )


class _Control:
    """What each path does. What may take long runs in a thread, so that health is always answered."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def status(self, request: Request) -> Response:
        return _json(asdict(await run_in_threadpool(lambda: self._service.status)))

    async def health(self, request: Request) -> Response:
        return _json({"healthy": True})

    async def ready(self, request: Request) -> Response:
        status = await run_in_threadpool(lambda: self._service.status)
        return _json({"ready": status.ready, "reasons": status.reasons}, 200 if status.ready else 503)

    async def metrics(self, request: Request) -> Response:
        body = await run_in_threadpool(self._service.metrics.render)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    async def start(self, request: Request) -> Response:
        name = request.path_params["name"]
        began = await run_in_threadpool(self._service.start_vehicle, name)
        return _json({"vehicle": name, "started": began}, 202 if began else 200)

    async def stop(self, request: Request) -> Response:
        name = request.path_params["name"]
        await run_in_threadpool(self._service.vehicle(name).stop)
        return _json({"vehicle": name, "stopping": True}, 202)

    async def drain(self, request: Request) -> Response:
        name = request.path_params["name"]
        timeout_s = self._service.config.drain_s
        drained = await run_in_threadpool(self._service.vehicle(name).drain, timeout_s)
        if not drained:
            return _error(504, f"vehicle {name} was not drained within {timeout_s:g} s; it goes on draining")
        return _json({"vehicle": name, "drained": True})

    async def model(self, request: Request) -> Response:
        given = await _model_request(request)
        old, new = await run_in_threadpool(self._service.replace_model, given.name, given.tier)
        return _json({"old": asdict(old), "new": asdict(new)})

    async def shutdown(self, request: Request) -> Response:
        self._service.shut_down()
        return _json({"ending": True}, 202)


class _Guard:
    """Lets through whoever may use the endpoint (an ASGI application around another).

    Web pages may not: a browser says on whose behalf it asks (`Origin`), and by what name (`Host`), which on loopback
    must be a loopback one, else a page could point its own name there.
    """

    def __init__(self, app: Starlette, token: str | None, config: HttpConfig) -> None:
        self._app = app
        self._token = token
        self._is_loopback = config.is_loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if "origin" in request.headers:
            return _error(403, "requests from web pages are refused")
        if self._is_loopback and not _is_loopback_name(request.headers.get("host", "")):
            return _error(403, "this endpoint is asked as 127.0.0.1, [::1] or localhost")
        if self._token is None or request.url.path in OPEN_PATHS:
            return None
        given = request.headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            return None
        return _error(401, "a token is needed: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})


def _is_loopback_name(host: str) -> bool:
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return name == "localhost" or HttpConfig.model_construct(host=name).is_loopback


async def _model_request(request: Request) -> ModelRequest:
    """What the body asks for. Raises UsageError where it is too long, no JSON, or something else."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise UsageError(f"the body is longer than {MAX_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=ModelRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f'the body must be a JSON object, as in {{"name": "tiny"}} or {{"name": "tiny", "tier": "small"}}: {error}'
        ) from None


async def _refused(request: Request, error: Exception) -> Response:
    codes = {UnknownVehicleError: 404, NotNowError: 409, ModelError: 422, EngineError: 503}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), 400)
    return _error(code, str(error))


async def _not_found(request: Request, error: Exception) -> Response:
    return _error(404, f"no such path: {request.url.path}")


async def _not_allowed(request: Request, error: Exception) -> Response:
    return _error(405, f"{request.method} is not for {request.url.path}")


def _json(content: Any, code: int = 200) -> Response:
    return JSONResponse(content, code)


def _error(code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, code, headers)
