"""Where ROS 2 topics are listened to: `ros2:ENDPOINT?domain=N&topics=FILE&wait=SECONDS`; all parts may be left out."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perception.core.errors import UsageError
from perception.formats.ros_zenoh import MAX_DOMAIN, ROUTER

PREFIX: Final = "ros2:"
OPTIONS: Final = ("domain", "topics", "wait")
WAIT_S: Final = 5.0
MAX_WAIT_S: Final = 60.0
"""A service that ends waits for a source that is being opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ros2Url:
    """endpoint: of the router or peer, as Zenoh has it. domain: `ROS_DOMAIN_ID`. topics: the mapping, None to guess.

    wait_s: how long topics and their first messages are waited for.
    """

    endpoint: str = ROUTER
    domain: int = 0
    topics: Path | None = None
    wait_s: float = WAIT_S

    def __str__(self) -> str:
        return f"{PREFIX}{self.endpoint}?domain={self.domain}"


def read_url(url: str) -> Ros2Url:
    """Read what stands behind `ros2:`. Raises UsageError that names the option."""
    endpoint, _, query = url.partition("?")
    if endpoint and not all(endpoint.partition("/")):
        raise UsageError(f"{PREFIX}{url}: {endpoint!r} is no endpoint of Zenoh; write it as in {PREFIX}{ROUTER}")
    options: dict[str, str] = {}
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        if name not in OPTIONS:
            raise UsageError(f"{PREFIX}{url}: unknown option {name!r}; known are {', '.join(OPTIONS)}")
        if not value or name in options:
            raise UsageError(f"{PREFIX}{url}: give {name} one value, as in {name}=...")
        options[name] = value
    return Ros2Url(
        endpoint=endpoint or ROUTER,
        domain=int(_number(url, "domain", options.get("domain", "0"), MAX_DOMAIN)),
        topics=Path(options["topics"]) if "topics" in options else None,
        wait_s=_number(url, "wait", options.get("wait", str(WAIT_S)), MAX_WAIT_S),
    )


def _number(url: str, name: str, text: str, largest: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    is_fit = 0 <= number <= largest and (name != "domain" or text.isdigit())
    if not is_fit:
        kind = "a whole number" if name == "domain" else "seconds"
        raise UsageError(f"{PREFIX}{url}: {name} must be {kind} from 0 to {largest:g}, got {text!r}")
    return number
