"""The service's metrics for Prometheus: https://prometheus.io/docs/practices/naming/."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from perception.core.messages import AnyMessage
from perception.core.results import EndOfRun, PerceptionResult, SensorStatus
from perception.core.stages import ModelInfo
from perception.runtime.machine_memory import devices, workers_resident_bytes
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
        self._restarts = Counter(
            "perception_restarts", "Processes that were replaced, by what they did, as results report them.",
            (*vehicle, "role"), registry=registry,
        )  # fmt: skip
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
        self._model = Gauge(
            "perception_model_info", "1 for the model that runs.", ("name", "hash", "trained", "placement"),
            registry=registry,
        )  # fmt: skip
        self._loads = Counter("perception_model_loads", "Engines started, the first included.", registry=registry)

    def watch_depths(self, read: Callable[[], Mapping[str, "Depths"]]) -> None:
        """Report how much is under way for each vehicle, asked for at each scrape."""
        self.registry.register(_DepthCollector(read))

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
        for role, count in provenance.restarts.items():
            self._restarts.labels(vehicle, role).inc(count)
        for status in result.sensors:
            self._sensor(vehicle, status)

    def ended(self, vehicle: str, end: EndOfRun) -> None:
        self._runs.labels(vehicle, end.reason).inc()

    def failed(self, vehicle: str, error: Exception, pause_s: float) -> None:
        self._runs.labels(vehicle, "failed").inc()

    def model(self, info: ModelInfo, placement: str) -> None:
        self._model.clear()
        self._model.labels(info.name, info.hash, str(info.trained).lower(), placement).set(1)
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
