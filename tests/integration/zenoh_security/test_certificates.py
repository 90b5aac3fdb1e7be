"""Who may join a Zenoh queue by TLS: with the right, wrong, missing and expired certificate."""

import logging

import pytest

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError
from perception.queues.open import open_queue
from tests.integration.zenoh_security.conftest import PATIENCE_S, Place, Producers, Proof, consume, joined


def test_the_right_certificate_joins_on_loopback(producers: Producers, proof: Proof, url: str) -> None:
    config = QueueConfig(url=url, security=proof.certificate("right"))
    assert joined(producers, config, config) == ["genuine"]


def test_the_right_certificate_joins_at_an_endpoint(producers: Producers, proof: Proof, place: Place, url: str) -> None:
    producer = QueueConfig(url=url, security=proof.certificate("right"), zenoh_config=place.listening("tls"))
    consumer = QueueConfig(url=url, security=proof.certificate("right"), zenoh_config=place.connecting("tls"))
    assert joined(producers, producer, consumer) == ["genuine"]


CERTIFICATES = [
    ("right", "ours", "wrong", "ours", "refused our certificate.*UnknownCA"),
    ("right", "ours", "expired", "ours", "refused our certificate.*CertificateExpired"),
    ("right", "ours", None, "ours", "refused our certificate.*CertificateRequired"),
    ("right", "ours", "right", "theirs", "its certificate was refused.*UnknownIssuer"),
    ("wrong", "theirs", "right", "ours", "its certificate was refused.*UnknownIssuer"),
    ("expired", "ours", "right", "ours", "its certificate was refused.*expired"),
    ("elsewhere", "ours", "right", "ours", "its certificate was refused.*not valid for name"),
]


@pytest.mark.parametrize(("shown", "trusts", "ours", "we_trust", "why"), CERTIFICATES)
def test_other_certificates_are_refused_at_an_endpoint(
    producers: Producers,
    proof: Proof,
    place: Place,
    url: str,
    shown: str,
    trusts: str,
    ours: str | None,
    we_trust: str,
    why: str,
) -> None:
    server = proof.certificate(shown, trusts=trusts)
    producers.start(QueueConfig(url=url, security=server, zenoh_config=place.listening("tls")))
    config = QueueConfig(
        url=url, security=proof.certificate(ours, trusts=we_trust), zenoh_config=place.connecting("tls")
    )
    with pytest.raises(QueueError, match=f"tls/127.0.0.1:{place.port} does not let us in: .*{why}"):
        consume(config)
    with pytest.raises(QueueError, match="does not let us in"):
        open_queue(url, config)


@pytest.mark.parametrize(("shown", "trusts", "ours", "we_trust", "why"), CERTIFICATES[:4])
def test_other_certificates_are_refused_on_loopback(
    producers: Producers,
    proof: Proof,
    url: str,
    caplog: pytest.LogCaptureFixture,
    shown: str,
    trusts: str,
    ours: str | None,
    we_trust: str,
    why: str,
) -> None:
    producers.start(QueueConfig(url=url, security=proof.certificate(shown, trusts=trusts)))
    producers.publish()
    config = QueueConfig(url=url, security=proof.certificate(ours, trusts=we_trust))
    said: set[str] = set()
    for timeout_s in (4, PATIENCE_S):  # producers are found by scouting, which takes its time on a busy machine
        with caplog.at_level(logging.WARNING), pytest.raises(QueueError, match="nothing came"):
            consume(config, timeout_s=timeout_s)
        messages = [record.getMessage() for record in caplog.records]
        # Other tests' peers without TLS may be on this machine; they are named too.
        said = {message for message in messages if "tls/" in message and "does not let us in" in message}
        if said:
            break
    assert len(said) == 1
    assert why.split(".*")[1] in said.pop()


def test_a_consumer_without_tls_gets_nothing_from_a_producer_with_it(
    producers: Producers, proof: Proof, place: Place, url: str
) -> None:
    producers.start(QueueConfig(url=url, security=proof.certificate("right"), zenoh_config=place.listening("tls")))
    with pytest.raises(QueueError, match="does not speak TLS as we do"):
        consume(QueueConfig(url=url, zenoh_config=place.connecting("tcp")))
