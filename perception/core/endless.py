"""What sources without a known end have in common."""

from perception.core.labels import Labels


class Endless:
    """A source that does not know when it ends, and has no ground truth."""

    @property
    def span_ns(self) -> tuple[int, int] | None:
        return None

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        return ()

    def labels(self, reference_ns: int) -> Labels | None:
        return None
