"""What must be the same in two results of which one lived through restarts: all but times, and who was restarted."""

from dataclasses import replace

from perception.core.results import PerceptionResult
from perception.queues.json_form import to_json


def decided(result: PerceptionResult, *, run_id: str = "r") -> str:
    """The result as JSON, to the last bit, without run id, times of work and restarts."""
    provenance = replace(result.provenance, stage_latency_ns={}, restarts={})
    return to_json(replace(result, run_id=run_id, published_ns=0, provenance=provenance))
