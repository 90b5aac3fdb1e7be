"""The service's metrics for Prometheus: https://prometheus.io/docs/practices/naming/."""

from collections import Counter as Losses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from perception.core.messages import AnyMessage
from perception.core.results import PerceptionResult, SensorStatus
from perception.core.stages import ModelInfo
from perception.core.supervision import SupervisionState
from perception.pipeline.replay import RunSummary
from perception.runtime.machine_memory import devices, workers_resident_bytes
from perception.runtime.service_tiers import Tier
from perception.runtime.service_watch import VehicleState, Watcher

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
LAST_MESSAGE: Final = "since_last_message"
"""The stage time that is no stage: from a frame's last message to its result."""
NS_PER_S: Final = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """What is under way for one vehicle. waiting: results not yet with the broker; None where the queue has none."""

    frames: int
    waiting: int | None


class ServiceMetrics(Watcher):
    """Counts what the vehicles do, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series, and nobody asks for them
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        registry.register(_Memory())
        vehicle, sensor = ("vehicle",), ("vehicle", "sensor")
        self._state = Enum(
            "perception_vehicle_state", "1 for the state it is in.", vehicle,
            registry=registry, states=[state.value for state in VehicleState],
        )  # fmt: skip
        self._messages = Counter("perception_messages", "Messages taken from sources.", sensor, registry=registry)
        self._results = Counter("perception_results", "Results handed to queues.", vehicle, registry=registry)
        self._dropped = Counter(
            "perception_dropped", "What results say was lost or unused.", (*vehicle, "cause"), registry=registry
        )
        self._runs = Counter(
            "perception_runs", "Runs that ended (completed, interrupted, failed).", (*vehicle, "reason"),
            registry=registry,
        )  # fmt: skip
        self._stage = Histogram(
            "perception_stage_seconds", "Wall time of a frame in each stage.", (*vehicle, "stage"),
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self._latency = Histogram(
            "perception_result_latency_seconds", "From a frame's last message to its result.", vehicle,
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self._slack = Histogram(
            "perception_deadline_slack_seconds", "Time left at the bundle's deadline; 0 where it was closed by it.",
            vehicle, registry=registry, buckets=(0.0, *SECONDS),
        )  # fmt: skip
        self._detections = Gauge("perception_detections", "Boxes in the last result.", vehicle, registry=registry)
        self._present = Gauge(
            "perception_sensor_present", "It contributed to the last result.", sensor, registry=registry
        )
        self._alive = Gauge("perception_sensor_alive", "It was heard from lately.", sensor, registry=registry)
        self._valid = Gauge("perception_sensor_valid", "Its last message could be read.", sensor, registry=registry)
        self._age = Gauge(
            "perception_sensor_age_seconds", "Reference time minus capture of what was used.", sensor, registry=registry
        )
        self._frequency = Gauge("perception_sensor_frequency_hertz", "Its measured rate.", sensor, registry=registry)
        self._jitter = Gauge(
            "perception_sensor_jitter_seconds", "Mean deviation of its arrivals from an even pace.", sensor,
            registry=registry,
        )  # fmt: skip
        self._fault = Gauge(
            "perception_sensor_fault", "1 while this is wrong with it, 0 after that.", (*sensor, "kind", "severity"),
            registry=registry,
        )  # fmt: skip
        self._told: dict[str, Losses[str]] = {}
        """Losses of the run under way that its results told."""
        self._faults: dict[tuple[str, str], set[tuple[str, str]]] = {}
        self._model = Gauge(
            "perception_model_info", "1 for the model that runs.", ("name", "hash", "trained", "placement", "tier"),
            registry=registry,
        )  # fmt: skip
        self._models: dict[Tier, tuple[str, ...]] = {}
        self._loads = Counter("perception_model_loads", "Engines started, the first included.", registry=registry)

    def watch_depths(self, read: Callable[[], Mapping[str, "Depths"]]) -> None:
        """Report how much is under way for each vehicle, asked for at each scrape."""
        self.registry.register(_DepthCollector(read))

    def watch_engine(self, read: Callable[[], SupervisionState | None]) -> None:
        """Report what the engine says of its processes, asked for at each scrape."""
        self.registry.register(_EngineCollector(read))

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def state(self, vehicle: str, state: VehicleState) -> None:
        self._state.labels(vehicle).state(state.value)

    def message(self, vehicle: str, message: AnyMessage) -> None:
        self._messages.labels(vehicle, message.sensor).inc()

    def result(self, vehicle: str, result: PerceptionResult) -> None:
        self._results.labels(vehicle).inc()
        self._detections.labels(vehicle).set(len(result.detections))
        provenance = result.provenance
        for stage, time_ns in provenance.stage_latency_ns.items():
            if stage == LAST_MESSAGE:
                self._latency.labels(vehicle).observe(time_ns / NS_PER_S)
            else:
                self._stage.labels(vehicle, stage).observe(time_ns / NS_PER_S)
        self._slack.labels(vehicle).observe(provenance.deadline_slack_ns / NS_PER_S)
        self._count_dropped(vehicle, provenance.dropped)
        self._told.setdefault(vehicle, Losses()).update(provenance.dropped)
        for status in result.sensors:
            self._sensor(vehicle, status)

    def ended(self, vehicle: str, summary: RunSummary) -> None:
        self._runs.labels(vehicle, summary.end.reason).inc()
        # What was lost after the last result is told by the summary alone.
        told = self._told.pop(vehicle, Losses())
        self._count_dropped(vehicle, Losses(summary.dropped) - told)

    def failed(self, vehicle: str, error: Exception, pause_s: float) -> None:
        self._told.pop(vehicle, None)
        self._runs.labels(vehicle, "failed").inc()

    def model(self, info: ModelInfo, placement: str, tier: Tier) -> None:
        self._models[tier] = (info.name, info.hash, str(info.trained).lower(), placement, tier)
        self._model.clear()
        for labels in self._models.values():
            self._model.labels(*labels).set(1)
        self._loads.inc()

    def _count_dropped(self, vehicle: str, dropped: Mapping[str, int]) -> None:
        for cause, count in dropped.items():
            self._dropped.labels(vehicle, cause).inc(count)

    def _sensor(self, vehicle: str, status: SensorStatus) -> None:
        labels = (vehicle, status.name)
        self._present.labels(*labels).set(status.present)
        self._alive.labels(*labels).set(status.alive)
        self._valid.labels(*labels).set(status.valid)
        self._frequency.labels(*labels).set(status.frequency_hz)
        self._jitter.labels(*labels).set(status.jitter_ns / NS_PER_S)
        now = {(fault.kind, fault.severity.value) for fault in status.faults}
        for kind, severity in self._faults.get(labels, set()) | now:
            self._fault.labels(*labels, kind, severity).set((kind, severity) in now)
        if now:
            self._faults.setdefault(labels, set()).update(now)
        self._age.labels(*labels).set(float("nan") if status.age_ns is None else status.age_ns / NS_PER_S)


class _DepthCollector(Collector):
    def __init__(self, read: Callable[[], Mapping[str, Depths]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        frames = GaugeMetricFamily(
            "perception_frames_in_flight", "Frames that are being encoded or fused.", labels=("vehicle",)
        )
        waiting = GaugeMetricFamily(
            "perception_queue_waiting", "Results that wait for the queue's broker.", labels=("vehicle",)
        )
        for vehicle, depths in self._read().items():
            frames.add_metric((vehicle,), depths.frames)
            if depths.waiting is not None:
                waiting.add_metric((vehicle,), depths.waiting)
        return (frames, waiting)


class _EngineCollector(Collector):
    def __init__(self, read: Callable[[], SupervisionState | None]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        restarts = CounterMetricFamily(
            "perception_engine_restarts",
            "Processes of the engine replaced, since its model was loaded.",
            labels=("role",),
        )
        hung = CounterMetricFamily("perception_engine_hung", "Of these, killed because they hung.")
        quarantined = CounterMetricFamily(
            "perception_engine_quarantined", "Messages put aside because they crashed their encoder."
        )
        recovering = GaugeMetricFamily("perception_engine_recovering", "Roles without a process at this moment.")
        if (state := self._read()) is not None:
            for role, count in state.restarts.items():
                restarts.add_metric((role,), count)
            hung.add_metric((), state.hung)
            quarantined.add_metric((), state.quarantined)
            recovering.add_metric((), len(state.recovering))
        return (restarts, hung, quarantined, recovering)


class _Memory(Collector):
    def collect(self) -> Iterable[Metric]:
        workers = GaugeMetricFamily(
            "perception_workers_resident_bytes", "Memory of this process' children: Ray and its actors."
        )
        workers.add_metric((), workers_resident_bytes())
        used = GaugeMetricFamily("perception_device_memory_used_bytes", "By all processes.", labels=("device",))
        total = GaugeMetricFamily("perception_device_memory_bytes", "The device has.", labels=("device",))
        for device in devices():
            used.add_metric((device.name,), device.used_bytes)
            total.add_metric((device.name,), device.total_bytes)
        return (workers, used, total)
