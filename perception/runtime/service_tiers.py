"""What vehicles share: the engine of the full model, and beside it that of the ladder's small one, if there is one."""

import itertools
from collections import Counter
from contextlib import ExitStack
from typing import Literal

from perception.config.schema import ModelChoice, ServiceConfig
from perception.core.errors import UsageError
from perception.core.stages import ModelInfo
from perception.core.supervision import SupervisionState
from perception.pipeline.tiers import Tiers
from perception.runtime.service_engine import OnFused, SharedEngine, VehicleEngine
from perception.runtime.service_pools import StartPool

Tier = Literal["full", "small"]
"""Which of the models: the one that runs, or `ladder.small_model`."""


class SharedTiers:
    """A `SharedEngine` for each model of a service; each is replaced and mended by itself. Thread-safe."""

    def __init__(self, start: StartPool, config: ServiceConfig) -> None:
        """Raises what starting an engine raises; then none of them is left."""
        small = config.ladder.small_model
        self._choices: dict[Tier, ModelChoice] = {"full": config.model}
        if small is not None:
            self._choices["small"] = config.model.model_copy(update={"name": small})
        with ExitStack() as stack:
            self._engines: dict[Tier, SharedEngine] = {}
            for tier, choice in self._choices.items():
                self._engines[tier] = SharedEngine(start, choice)
                stack.callback(self._engines[tier].close)
            self._closing = stack.pop_all()

    @property
    def placement(self) -> str:
        return self._engines["full"].placement

    @property
    def models(self) -> dict[Tier, ModelInfo]:
        """The models that run now."""
        return {tier: engine.model for tier, engine in self._engines.items()}

    @property
    def is_broken(self) -> bool:
        return any(engine.is_broken for engine in self._engines.values())

    @property
    def loads(self) -> int:
        """Engines started so far."""
        return sum(engine.loads for engine in self._engines.values())

    def supervision(self) -> SupervisionState | None:
        """What the engines say of their processes, together, roles of the small one as `small-fusion`; None where they
        have none."""
        states = {tier: state for tier, one in self._engines.items() if (state := one.supervision()) is not None}
        if "small" not in states:
            return states.get("full")
        return _joined(states["full"], states["small"])

    def view(self, name: str, on_fused: OnFused | None = None, *, small: bool = True) -> "VehicleTiers":
        """The engines as one vehicle sees them. small: whether its ladder has the small model."""
        wanted = [engine for tier, engine in self._engines.items() if tier == "full" or small]
        return VehicleTiers(tuple(engine.view(name, on_fused) for engine in wanted))

    def replace_model(self, name: str, tier: Tier, *, timeout_s: float) -> tuple[ModelInfo, ModelInfo]:
        """The old model of a tier and the new one. Raises as `SharedEngine.replace_model`, UsageError where the ladder
        has no small model."""
        if tier not in self._engines:
            raise UsageError("this service has no small model: set ladder.small_model in its configuration")
        engine = self._engines[tier]
        old = engine.model
        choice = self._choices[tier].model_copy(update={"name": name})
        return old, engine.replace_model(choice, timeout_s=timeout_s)

    def mend(self, *, timeout_s: float) -> bool:
        """Start anew what broke; whether anything had. Raises what starting it raises."""
        return sum(engine.mend(timeout_s=timeout_s) for engine in self._engines.values()) > 0

    def close(self) -> None:
        """Close the engines; models that are being loaded are waited for."""
        self._closing.close()


class VehicleTiers(Tiers):
    """A vehicle's views of the shared engines, the full one first."""

    def __init__(self, views: tuple[VehicleEngine, ...]) -> None:
        super().__init__(views)
        self._views = views

    @property
    def frames_under_way(self) -> int:
        """Frames that are being fused."""
        return sum(view.frames_under_way for view in self._views)

    def rest(self) -> None:
        """The vehicle stops; nothing of it is under way. It may begin again."""
        for view in self._views:
            view.rest()


def _joined(full: SupervisionState, small: SupervisionState) -> SupervisionState:
    outages = [one.last_outage_s for one in (full, small) if one.last_outage_s is not None]
    named = itertools.chain(full.recovering, (f"small-{role}" for role in small.recovering))
    return SupervisionState(
        restarts=Counter(full.restarts) + Counter({f"small-{role}": n for role, n in small.restarts.items()}),
        hung=full.hung + small.hung,
        quarantined=full.quarantined + small.quarantined,
        recovering=tuple(named),
        last_outage_s=max(outages, default=None),
        pids={**full.pids, **{f"small-{role}": pid for role, pid in small.pids.items()}},
    )
