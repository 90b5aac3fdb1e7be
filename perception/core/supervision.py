"""What an engine says of the processes that it watches over."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionState:
    """Since the engine was opened; counters only rise. By default that of an engine without processes.

    restarts: processes replaced, by role (`camera`, `lidar`, `radar`, `fusion`, or `all`). hung: how many of them were
    killed for being silent or for working on one call for too long. quarantined: messages put aside because they
    crashed their encoder again and again. recovering: roles without a process at this moment. last_outage_s: from the
    discovery of the last loss until its replacement worked, None before the first. pids: of the processes that run now.
    """

    restarts: Mapping[str, int] = field(default_factory=dict)
    hung: int = 0
    quarantined: int = 0
    recovering: tuple[str, ...] = ()
    last_outage_s: float | None = None
    pids: Mapping[str, int] = field(default_factory=dict)
