"""The producer's outbox: what waits, what is dropped, and what is said when the broker is away or refuses us."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from perception.core.errors import QueueError
from perception.queues.broker import BrokerAwayError, HungUpError, Letter
from perception.queues.outbox import BATCH, Outbox

PATIENCE_S = 20.0


class Broker:
    """Keeps what it is sent. away: raised by every call. loses: how many of the next batch it confirms at most."""

    def __init__(self, away: Exception | None = None) -> None:
        self.away = away
        self.stored: list[Letter] = []
        self.confirms: int | None = None
        self.may_store = threading.Event()
        self.may_store.set()
        self.closed = False

    def connect(self) -> None:
        self.store(())

    def store(self, letters: Sequence[Letter]) -> int:
        if letters:
            self.may_store.wait(PATIENCE_S)
        if self.away is not None:
            raise self.away
        count = len(letters) if self.confirms is None else min(self.confirms, len(letters))
        self.confirms = None
        self.stored += letters[:count]
        return count

    def has_consumer(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    @property
    def texts(self) -> list[str]:
        return [letter.payload.decode() for letter in self.stored]


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.away = None
    broker.may_store.set()


def put(outbox: Outbox, texts: Sequence[object], *, is_end: bool = False) -> None:
    for text in texts:
        outbox.put(str(text).encode(), str(text), is_end=is_end)


def await_true(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_waited_is_sent_in_order_when_the_broker_comes(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    broker.away = BrokerAwayError("nobody answers")
    with caplog.at_level(logging.WARNING):
        outbox = Outbox(broker, "the queue", capacity=500, when_full="wait", linger_s=PATIENCE_S)
        put(outbox, range(200))
        assert (outbox.state.waiting, outbox.state.dropped) == (200, 0)
        assert outbox.state.away_s is not None
        broker.away = None
        outbox.close()
    assert broker.texts == [str(n) for n in range(200)]
    assert broker.closed
    assert [record.getMessage().partition(" after")[0] for record in caplog.records] == [
        "the queue: the broker is away (nobody answers); trying again",
        "the queue: the broker is back",
    ]


def test_what_is_not_confirmed_is_sent_again_under_its_number(broker: Broker) -> None:
    broker.may_store.clear()
    outbox = Outbox(broker, "the queue", capacity=500, when_full="wait", linger_s=PATIENCE_S)
    put(outbox, range(10))
    broker.confirms = 0
    broker.may_store.set()
    outbox.close()
    assert broker.texts == [str(n) for n in range(10)]
    assert [letter.number for letter in broker.stored] == list(range(10))


def test_a_full_outbox_holds_the_publisher_up(broker: Broker) -> None:
    broker.away = BrokerAwayError("nobody answers")
    outbox = Outbox(broker, "the queue", capacity=5, when_full="wait", linger_s=PATIENCE_S)
    publisher = threading.Thread(target=put, args=(outbox, range(12)), daemon=True)
    publisher.start()
    await_true(lambda: outbox.state.waiting == 5)
    put(outbox, ["end"], is_end=True)
    assert publisher.is_alive()
    broker.away = None
    publisher.join(PATIENCE_S)
    outbox.close()
    assert broker.texts == ["0", "1", "2", "3", "4", "end", *map(str, range(5, 12))]
    assert outbox.take_losses() == 0


def test_a_full_outbox_drops_the_oldest_results_but_no_end(broker: Broker) -> None:
    broker.away = BrokerAwayError("nobody answers")
    outbox = Outbox(broker, "the queue", capacity=5, when_full="drop", linger_s=PATIENCE_S)
    put(outbox, range(4))
    put(outbox, ["end"], is_end=True)
    put(outbox, range(4, 10))
    assert outbox.take_losses() == 6
    assert outbox.take_losses() == 0
    assert outbox.state.dropped == 6
    broker.away = None
    outbox.close()
    assert broker.texts == ["end", "6", "7", "8", "9"]


def test_what_is_being_sent_is_not_dropped(broker: Broker) -> None:
    broker.may_store.clear()
    outbox = Outbox(broker, "the queue", capacity=3, when_full="drop", linger_s=PATIENCE_S)
    put(outbox, ["sent"])
    await_true(lambda: outbox._in_flight == 1)
    put(outbox, range(6))
    broker.may_store.set()
    outbox.close()
    assert broker.texts == ["sent", "4", "5"]


def test_closing_gives_up_on_a_broker_that_stays_away(broker: Broker) -> None:
    broker.away = BrokerAwayError("nobody answers")
    outbox = Outbox(broker, "the queue", capacity=500, when_full="wait", linger_s=0.1)
    put(outbox, range(3))
    with pytest.raises(QueueError, match=r"3 items were not delivered: the queue: the broker is away \(nobody answers"):
        outbox.close()
    with pytest.raises(QueueError, match="closed"):
        put(outbox, ["late"])
    outbox.close()


def test_closing_waits_for_a_slow_broker(broker: Broker) -> None:
    broker.may_store.clear()
    outbox = Outbox(broker, "the queue", capacity=500, when_full="wait", linger_s=0.0)
    put(outbox, range(2 * BATCH))
    closing = threading.Thread(target=outbox.close)
    closing.start()
    broker.may_store.set()
    closing.join(PATIENCE_S)
    assert len(broker.stored) == 2 * BATCH


@pytest.mark.parametrize("refusal", [QueueError("wrong password"), HungUpError("it hung up")])
def test_a_refusal_at_the_start_is_an_error_at_once(refusal: Exception) -> None:
    broker = Broker(away=refusal)
    with pytest.raises(QueueError, match=str(refusal)):
        Outbox(broker, "the queue", capacity=5, when_full="wait", linger_s=PATIENCE_S)
    await_true(lambda: broker.closed)


def test_a_refusal_later_ends_every_wait(broker: Broker) -> None:
    outbox = Outbox(broker, "the queue", capacity=2, when_full="wait", linger_s=PATIENCE_S)
    broker.may_store.clear()
    broker.away = QueueError("the password was withdrawn")
    put(outbox, range(2))
    errors: list[QueueError] = []

    def put_one_more() -> None:
        try:
            put(outbox, ["waits"])
        except QueueError as error:
            errors.append(error)

    publisher = threading.Thread(target=put_one_more)
    publisher.start()
    broker.may_store.set()
    publisher.join(PATIENCE_S)
    assert [str(error) for error in errors] == ["the password was withdrawn"]
    with pytest.raises(QueueError, match="2 items were not delivered: the password was withdrawn"):
        outbox.close()


def test_a_broker_that_hangs_up_later_is_tried_again(broker: Broker) -> None:
    outbox = Outbox(broker, "the queue", capacity=5, when_full="wait", linger_s=PATIENCE_S)
    broker.away = HungUpError("it goes down")
    put(outbox, ["one"])
    await_true(lambda: outbox.state.away_s is not None)
    broker.away = None
    outbox.close()
    assert broker.texts == ["one"]
    assert outbox.state.away_s is None
