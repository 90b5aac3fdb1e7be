"""`redis://HOST:PORT/NAME`: a durable queue on a Redis server (7 or later) with a stream.

Promises: ordered; every result once, for consumers that stay within the history. The server keeps the last `history`
items, 10 000 of them where `history` is not set, whether or not producer and consumers live; a consumer that falls
further behind loses the oldest and counts them. Redis holds them in memory (20 KB each: 200 MB) and on disk as far as
the server is told to: with `appendonly yes` what it has accepted survives a kill of the server, with `appendfsync
always` a failure of the power too; without, it is lost with the server, of which a producer warns. `maxmemory-policy`
must be `noeviction`. What the server has not accepted yet waits in the producer's outbox (`outbox`), which is lost with
the producer. `earliest` is the oldest result that the server has, which may be of an earlier run.

Groups: `group` names a consumer group of the server. It remembers what was acknowledged, so that whoever comes back
goes on there. What was handed out but not acknowledged is handed out again, in order and before anything new, as soon
as the connection of its holder is gone. `(drive, run, sequence)` tells a consumer that keeps books that it has had a
result before. Members share the results, each of which goes to one of them; so does the end of a run.

On the server: the stream `NAME`, each entry with one field `item`, a `QueueItem` of `perception_result.proto`; the
number of each producer's last item, by which the server drops what is sent twice, in `NAME:producer:ID` for a day.
Consumers listen on channels below `NAME:`, on which nothing is said: that they do shows that they live.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from uuid import uuid4

from redis.exceptions import NoPermissionError

from perception.config.schema import QueueConfig
from perception.queues.broker import Address, Letter, kept_results, parse_address
from perception.queues.broker_queue import BrokerQueue
from perception.queues.redis_connection import answers, make_client
from perception.queues.redis_feed import ITEM, RedisFeed, presence_channel
from perception.queues.subscription import Reading, ResultSubscription

PORT = 6379
DEFAULT_HISTORY = 10_000
NUMBER_KEPT_S = 86_400

STORE = """
local last = tonumber(redis.call('GET', KEYS[2]) or '-1')
for i = 4, #ARGV, 2 do
  local number = tonumber(ARGV[i])
  if number > last then
    redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', ARGV[3], ARGV[i + 1])
    redis.call('SET', KEYS[2], number, 'EX', ARGV[2])
    last = number
  end
end
return last
"""
"""Appends items (number and payload in turn) to a stream, leaving out those that this producer has sent before."""

logger = logging.getLogger(__name__)


class RedisBroker:
    """A producer's connection to Redis."""

    def __init__(self, address: Address, config: QueueConfig) -> None:
        self._address = address
        self._security = config.security
        self._history = kept_results(config, DEFAULT_HISTORY)
        self._number_key = f"{address.name}:producer:{uuid4().hex}"
        self._client = make_client(address, config.security)
        self._script = self._client.register_script(STORE)
        self._has_looked = False

    def connect(self) -> None:
        self._client.connection_pool.disconnect()
        self.store(())
        if not self._has_looked:
            self._has_looked = True
            self._warn_if_forgetful()

    def store(self, letters: Sequence[Letter]) -> int:
        with answers(self._address, self._security):
            if not letters:
                self._client.ping()
                return 0
            pairs = [part for letter in letters for part in (letter.number, letter.payload)]
            last = self._script(
                keys=[self._address.name, self._number_key], args=[self._history, NUMBER_KEPT_S, ITEM, *pairs]
            )
        return sum(letter.number <= int(last) for letter in letters)

    def has_consumer(self) -> bool:
        channel = presence_channel(self._address)
        with answers(self._address, self._security):
            return any(count > 0 for _, count in self._client.pubsub_numsub(channel))

    def close(self) -> None:
        self._client.close()

    def _warn_if_forgetful(self) -> None:
        # Users may be denied the question; it only serves a warning.
        with answers(self._address, self._security), suppress(NoPermissionError):
            if not self._client.info("persistence").get("aof_enabled"):
                logger.warning("%s: results are lost if the server is killed; set `appendonly yes`", self._address)


def open_queue(address: str, config: QueueConfig) -> BrokerQueue:
    """A producer. Raises UsageError for a bad address, QueueError where the server refuses us."""
    where = parse_address("redis", address, PORT)
    return BrokerQueue(RedisBroker(where, config), where, config)


def subscribe(address: str, reading: Reading, config: QueueConfig) -> ResultSubscription:
    """A consumer. Raises UsageError for a bad address, QueueError where the server refuses us."""
    return ResultSubscription(RedisFeed(parse_address("redis", address, PORT), config.security, reading), reading)
