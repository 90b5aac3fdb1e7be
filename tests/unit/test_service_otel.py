"""Spans as a collector on loopback gets them by OTLP."""

import gzip
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic_ns, time_ns
from typing import Any

import numpy as np
import pytest

from perception.core.errors import ConfigError
from perception.queues.samples import sample_result
from perception.runtime.service_otel import OtelTraces
from perception.runtime.service_spans import FrameSpans
from tests.unit.service_parts import output

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


class Collector(ThreadingHTTPServer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []
        self.spans: list[Any] = []
        self.service = ""


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = trace_service.ExportTraceServiceRequest.FromString(body)
        self.server.paths.append(self.path)
        for resource in request.resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.server.service = named["service.name"]
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def frame() -> FrameSpans:
    result = sample_result(np.random.default_rng(0), sequence=7, detections=1)
    now_ns = monotonic_ns()
    return FrameSpans(
        vehicle="anna", result=result, received_ns=now_ns - 2_000_000, asked_ns=now_ns - 1_500_000,
        published_ns=now_ns, stages=output().spans,
    )  # fmt: skip


def test_a_frame_is_a_trace_with_its_stages_below(collector: Collector) -> None:
    traces = OtelTraces(f"http://127.0.0.1:{collector.server_port}/v1/traces")
    sent = frame()
    traces.write(sent)
    traces.close()
    assert set(collector.paths) == {"/v1/traces"}
    assert collector.service == "perception"
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"frame", "camera", "fusion"}
    root = spans["frame"]
    named = {one.key: one.value.string_value or one.value.int_value for one in root.attributes}
    assert named["perception.vehicle"] == "anna"
    assert named["perception.sequence"] == 7
    assert named["perception.run_id"] == sent.result.run_id
    for name, stage in (("camera", sent.stages[0]), ("fusion", sent.stages[1])):
        span = spans[name]
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
        assert span.end_time_unix_nano - span.start_time_unix_nano == stage.finished_ns - stage.started_ns
        assert root.start_time_unix_nano <= span.start_time_unix_nano
    assert abs(root.end_time_unix_nano - time_ns()) < 3600e9, "on the wall clock"


def test_a_missing_installation_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'perception\[otel\]'"):
        OtelTraces("http://127.0.0.1:4318/v1/traces")
