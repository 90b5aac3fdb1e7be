"""Writes the figures of the service into a Rerun recording as time series."""

from collections import Counter

import rerun as rr

from perception.core.results import PerceptionResult

LATENCY, OFFSETS, HEALTH, DROPS, COUNTS = (
    f"plots/{name}" for name in ("latency_ms", "sync_offset_ms", "sensor_hz", "dropped", "count")
)


class PlotLog:
    """One series for each stage, sensor and cause that is met. Drops are totals since the viewer began."""

    def __init__(self, recording: rr.RecordingStream) -> None:
        self._recording = recording
        self._named: set[str] = set()
        self._dropped: Counter[str] = Counter()

    def result(self, result: PerceptionResult, *, shown: int) -> None:
        """The figures of a result at the time that is set; a sensor that is missing has no offset and 0 Hz."""
        for stage, latency_ns in result.provenance.stage_latency_ns.items():
            self._scalar(LATENCY, stage, latency_ns / 1e6)
        for status in result.sensors:
            if status.age_ns is not None:
                self._scalar(OFFSETS, status.name, status.age_ns / 1e6)
            self._scalar(HEALTH, status.name, status.frequency_hz if status.present else 0.0)
        self._dropped.update(result.provenance.dropped)
        self._scalar(DROPS, "all", self._dropped.total())  # a line at 0 says more than an empty plot
        for cause, total in self._dropped.items():
            self._scalar(DROPS, cause, total)
        self._scalar(COUNTS, "detections", shown)

    def _scalar(self, plot: str, name: str, value: float) -> None:
        path = rr.new_entity_path([*plot.split("/"), name]).lstrip("/")
        if path not in self._named:
            self._named.add(path)
            self._recording.log(path, rr.SeriesLines(names=[name]), static=True)
        self._recording.log(path, rr.Scalars([value]))
