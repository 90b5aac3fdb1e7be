"""What a live source lost on its way is told by the results, whatever wraps it."""

from collections.abc import Callable, Iterator

import pytest

from perception.config.schema import ServiceConfig
from perception.core.messages import AnyMessage
from perception.core.ports import LossySource, Source
from perception.core.results import PerceptionResult
from perception.pipeline.overload import light_messages
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.runtime.service_sources import watched
from perception.sources.memory import MemorySource
from perception.sources.synthetic_rig import synthetic_rig
from tests.live_engine import SlowEngine

RIG = synthetic_rig()


class Leaky(MemorySource):
    """Has lost something before it is read, and loses one more before each hundredth message."""

    lost = 3

    def messages(self) -> Iterator[AnyMessage]:
        for count, message in enumerate(super().messages()):
            self.lost += bool(count and count % 100 == 0)
            yield message


@pytest.mark.parametrize("wrap", [lambda source: source, lambda source: watched(source, lambda _: None)])
def test_losses_of_a_source_are_told_by_the_next_result(wrap: Callable[[Source], Source]) -> None:
    messages = list(light_messages(RIG, 1.0))
    source = wrap(Leaky(RIG, messages))
    assert isinstance(source, LossySource)
    results: list[PerceptionResult] = []
    summary = run_drive(
        source, SlowEngine(0.0), ServiceConfig(), run_id="r", on_result=results.append, options=ReplayOptions()
    )
    lost = (len(messages) - 1) // 100
    assert lost > 0
    assert summary.dropped["overflow"] == lost, "what was lost before the run began is not its own"
    assert sum(result.provenance.dropped.get("overflow", 0) for result in results) in (lost - 1, lost)
    assert summary.account is not None
    assert summary.account.is_exact
