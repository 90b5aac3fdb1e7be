"""A consumer's end of a Zenoh queue: puts the samples of each producer in order and fetches what is missing.

The advanced subscriber of `zenoh.ext` is not used, though the producer is an advanced publisher: it drops the history
of a producer whose first live sample overtakes the reply to the history query, and cannot begin at "only new
samples" with recovery switched on. Here a consumer takes live samples as they come, and for every hole asks the
producer's cache (the protocol of `zenoh.ext`: a queryable on `KEY/@adv/pub/ZID/EID/**`, asked with `_sn=FIRST..LAST` or
`_max=N`).
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import zenoh

from perception.core.errors import QueueError
from perception.formats.zenoh_session import close_session, direct
from perception.queues.checks import MAX_PAYLOAD_BYTES
from perception.queues.subscription import Delivery
from perception.queues.zenoh_refusals import RefusalWatch

FOREIGN = "foreign"
"""Samples without a number, from a plain publisher: passed on as they come."""
FETCH_SAMPLES = 16
"""Asked for at once; few enough for the sockets' buffers, so that a consumer that stalls now blocks nobody."""
PROBE_S = 0.25
"""A quiet producer is asked this often whether there is more: the last sample may have been dropped."""
QUERY_TIMEOUT_S = 1.0
GRACE_S = 10.0
"""A producer out of sight for so long is gone. After a stall, peers find each other again at the next scouting."""


@dataclass(slots=True)
class Producer:
    """What is known of one producer. next_sn: the sample to hand out next, None until it is known where to begin."""

    name: str
    cache_key: str
    next_sn: int | None = None
    head_sn: int = -1
    waiting: dict[int, bytes] = field(default_factory=dict)
    has_started: bool = False
    lost_at: float | None = None
    heard_at: float = 0.0

    def is_lost(self) -> bool:
        return self.lost_at is not None and time.monotonic() - self.lost_at > GRACE_S

    def is_over(self) -> bool:
        return self.is_lost() and not self.waiting


class ZenohFeed:
    """Reads in a thread of its own; takes over `session` and closes it.

    is_late: begin with what is published from now on. capacity: payloads kept for a slow consumer. watch: tells why no
    producer comes in sight; what it raises, `receive` does.
    """

    def __init__(self, session: zenoh.Session, key: str, *, is_late: bool, capacity: int, watch: RefusalWatch) -> None:
        self._session = session
        self._watch = watch
        self._refusal: QueueError | None = None
        self._key = key
        self._is_late = is_late
        self._capacity = capacity
        self._changed = threading.Condition()
        self._arrived: deque[tuple[str, str, int, bytes]] = deque(maxlen=capacity)
        self._ready: deque[Delivery] = deque()
        self._producers: dict[str, Producer] = {}
        self._kept: str | None = None
        self._has_news = False
        self._closed = False
        session.declare_subscriber(key, direct(self._on_sample))
        session.liveliness().declare_subscriber(f"{key}/@adv/pub/**", direct(self._on_producer), history=True)
        self._thread = threading.Thread(target=self._read, name="zenoh-feed", daemon=True)
        self._thread.start()

    def receive(self, timeout_s: float) -> Delivery | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ready or self._refusal, timeout_s)
            if self._refusal is not None and not self._closed:
                raise self._refusal
            if not self._ready or self._closed:
                return None
            if len(self._ready) >= self._capacity:
                self._changed.notify_all()
            return self._ready.popleft()

    def acknowledge(self, delivery: Delivery) -> None:
        """Nothing to remember."""

    def keep_to(self, producer: str) -> None:
        with self._changed:
            self._kept = producer

    def is_gone(self, producer: str) -> bool:
        with self._changed:
            known = self._producers.get(producer)
            return known is not None and known.is_over() and not self._ready

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        close_session(self._session)

    def _on_sample(self, sample: zenoh.Sample) -> None:
        payload = bytes(sample.payload) if len(sample.payload) <= MAX_PAYLOAD_BYTES else b""
        source = sample.source_info
        with self._changed:
            if source is None:
                self._arrived.append((FOREIGN, "", 0, payload))
            else:
                name = f"{source.source_id.zid}/{source.source_id.eid}"
                self._arrived.append((name, str(sample.key_expr), source.source_sn, payload))
            self._has_news = True
            self._changed.notify_all()

    def _on_producer(self, token: zenoh.Sample) -> None:
        cache_key = str(token.key_expr)
        name = "/".join(cache_key.split("/@adv/pub/", 1)[1].split("/")[:2])
        with self._changed:
            producer = self._producers.setdefault(name, Producer(name, cache_key))
            producer.lost_at = None if token.kind == zenoh.SampleKind.PUT else time.monotonic()
            self._has_news = True
            self._changed.notify_all()

    def _read(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._has_news, PROBE_S)
                if self._closed:
                    return
                self._has_news = False
                arrived = list(self._arrived)
                self._arrived.clear()
                for name, key, _, _ in arrived:
                    if name not in self._producers and name != FOREIGN:
                        # The sample overtook the token; without a token its producer counts as lost.
                        unseen = Producer(name, f"{key}/@adv/pub/{name}/**", lost_at=time.monotonic())
                        self._producers[name] = unseen
                wanted = [p for p in self._producers.values() if self._kept in (None, p.name) and not p.is_over()]
            for name, _, number, payload in arrived:
                if name == FOREIGN:
                    self._hand_out(name, payload)
                else:
                    self._take(self._producers[name], number, payload)
            for producer in wanted:
                self._advance(producer)
            if not self._producers and not self._look_for_refusals():
                return

    def _look_for_refusals(self) -> bool:
        """False where one means that no producer can come."""
        try:
            self._watch.look(self._session)
        except QueueError as error:
            with self._changed:
                self._refusal = error
                self._changed.notify_all()
        return self._refusal is None

    def _take(self, producer: Producer, number: int, payload: bytes) -> None:
        producer.heard_at = time.monotonic()
        producer.head_sn = max(producer.head_sn, number)
        if self._is_late and not producer.has_started:
            # A live sample is new by definition, even if a probe has seen a later one already.
            producer.next_sn = number if producer.next_sn is None else min(producer.next_sn, number)
        if number >= (producer.next_sn or 0) and len(producer.waiting) < self._capacity:
            producer.waiting[number] = payload

    def _advance(self, producer: Producer) -> None:
        """Hand out all that is known of a producer, in order; what cannot be had now is left for the next time."""
        if producer.next_sn is None or time.monotonic() - producer.heard_at > PROBE_S:
            self._probe(producer)
        while producer.next_sn is not None and producer.next_sn <= producer.head_sn and not self._closed:
            payload = producer.waiting.pop(producer.next_sn, None)
            if payload is not None:
                self._hand_out(producer.name, payload)
                producer.has_started = True
                producer.next_sn += 1
            elif not self._fill_hole(producer):
                return

    def _probe(self, producer: Producer) -> bool:
        """Ask for the newest sample. Returns whether the producer's cache answered with one."""
        producer.heard_at = time.monotonic()
        newest = self._query(producer, "_max=1")
        if producer.next_sn is None and (newest or producer.lost_at is None or producer.is_lost()):
            producer.next_sn = 0
            for number, sample in newest.items():
                producer.next_sn = number + 1 if self._is_late else max(0, number + 1 - _history(sample))
        if newest:
            producer.head_sn = max(producer.head_sn, *newest)
        return bool(newest)

    def _fill_hole(self, producer: Producer) -> bool:
        """Fetch the samples missing before the next one waiting, or pass over what the cache no longer has.

        Returns False where the producer does not answer now.
        """
        first = producer.next_sn or 0
        next_waiting = min(producer.waiting, default=producer.head_sn + 1)
        last = min(next_waiting - 1, first + FETCH_SAMPLES - 1)
        fetched = self._query(producer, f"_sn={first}..{last}")
        producer.waiting.update({number: bytes(sample.payload) for number, sample in fetched.items()})
        if fetched:
            producer.next_sn = min(fetched)
        elif self._probe(producer):
            producer.next_sn = last + 1
        elif producer.is_lost():
            producer.next_sn = next_waiting
        else:
            return False
        return True

    def _query(self, producer: Producer, parameters: str) -> dict[int, zenoh.Sample]:
        """Samples by number out of a producer's cache; empty where it does not answer."""
        replies = self._session.get(
            f"{producer.cache_key}?{parameters}",
            consolidation=zenoh.ConsolidationMode.NONE,
            accept_replies=zenoh.ReplyKeyExpr.ANY,
            timeout=QUERY_TIMEOUT_S,
        )
        samples = [reply.ok for reply in replies if reply.ok is not None]
        return {sample.source_info.source_sn: sample for sample in samples if sample.source_info is not None}

    def _hand_out(self, name: str, payload: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._capacity)
            self._ready.append(Delivery(producer=name, payload=payload))
            self._changed.notify_all()


def _history(sample: zenoh.Sample) -> int:
    """How far back the producer of a sample lets consumers begin; 0 where it does not say."""
    text = bytes(sample.attachment) if sample.attachment is not None else b""
    return int(text) if text.isdigit() and len(text) < 10 else 0
