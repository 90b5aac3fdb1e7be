"""Frames as OpenTelemetry spans, sent to a collector by OTLP over HTTP. Needs the extra `otel`."""

import time
from typing import Any

from perception.core.errors import ConfigError
from perception.runtime.service_spans import FrameSpans


class OtelTraces:
    """A trace for each frame: a span `frame`, and below it one for each stage. Sent in batches, in the background.

    Raises ConfigError where OpenTelemetry is not installed. A collector that is away loses spans, nothing else.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ConfigError("traces.otlp_endpoint needs OpenTelemetry; run: pip install 'perception[otel]'") from None
        self._in_context = trace.set_span_in_context
        self._provider = TracerProvider(resource=Resource.create({"service.name": "perception"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("perception.service")
        self._wall_ns = time.time_ns() - time.monotonic_ns()

    def write(self, frame: FrameSpans) -> None:
        result = frame.result
        attributes: dict[str, Any] = {
            "perception.vehicle": frame.vehicle,
            "perception.drive_id": result.drive_id,
            "perception.run_id": result.run_id,
            "perception.sequence": result.sequence,
            "perception.model_hash": result.provenance.model_hash,
        }
        begin_ns = min([frame.received_ns, *(stage.started_ns for stage in frame.stages)])
        root = self._tracer.start_span("frame", start_time=self._wall_ns + begin_ns, attributes=attributes)
        below = self._in_context(root)
        for stage in frame.stages:
            span = self._tracer.start_span(
                stage.stage,
                context=below,
                start_time=self._wall_ns + stage.started_ns,
                attributes={"perception.sensors": list(stage.sensors)},
            )
            span.end(end_time=self._wall_ns + stage.finished_ns)
        root.end(end_time=self._wall_ns + frame.published_ns)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()
