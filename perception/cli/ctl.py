"""`perception ctl`: asks a running service, or tells it what to do."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from perception.config.serving import HttpConfig
from perception.core.errors import PerceptionError, UsageError

DEFAULT_URL = f"http://{HttpConfig().host}:{HttpConfig().port}"
TIMEOUT_S = 600.0
"""Draining and loading a model may take that long."""
VEHICLE_ACTIONS = ("start", "stop", "drain")


@click.command()
@click.argument("action", type=click.Choice(["status", "metrics", *VEHICLE_ACTIONS, "model", "shutdown"]))
@click.argument("name", required=False)
@click.option("--small", is_flag=True, help="With model: replace the ladder's small one.")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The service's control endpoint.")
@click.option(
    "--token-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The secret, where one is set."
)
def ctl(*, action: str, name: str | None, small: bool, url: str, token_file: Path | None) -> None:
    """Ask a running service (`perception serve`), or tell it what to do; prints its answer.

    status, metrics, shutdown; start, stop or drain VEHICLE; model NAME|FILE (lets another model take over, without a
    gap).
    """
    needs_name = action in (*VEHICLE_ACTIONS, "model")
    if needs_name != (name is not None):
        raise UsageError(f"{action} {'needs a NAME' if needs_name else 'takes no NAME'}")
    if small and action != "model":
        raise UsageError("--small goes with `model` alone")
    if action in ("status", "metrics"):
        path, body = f"/{action}", None
    elif action in VEHICLE_ACTIONS:
        path, body = f"/vehicles/{quote(name or '', safe='')}/{action}", {}
    else:
        tier = "small" if small else "full"
        path, body = f"/{action}", {"name": name, "tier": tier} if action == "model" else {}
    click.echo(_ask(url.rstrip("/") + path, body, token_file), nl=False)


def _ask(url: str, body: dict[str, Any] | None, token_file: Path | None) -> str:
    """The answer as text, JSON indented. Raises PerceptionError with what the service says where it refuses."""
    headers = {"Content-Type": "application/json"}
    if token_file is not None:
        headers["Authorization"] = f"Bearer {token_file.read_text(encoding='utf-8').strip()}"
    data = None if body is None else json.dumps(body).encode()
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url!r} begins with neither http:// nor https://")
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return _shown(answer.read().decode())
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        raise PerceptionError(f"{url}: {_reason(text)} ({error.code})") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise PerceptionError(f"{url}: nobody answers ({reason}); is `perception serve` running there?") from None


def _shown(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2) + "\n"
    except ValueError:
        return text


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text.strip() or "refused"
