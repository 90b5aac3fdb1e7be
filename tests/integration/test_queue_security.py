"""Who may join a queue with a broker: real servers, with the right, wrong, missing and expired proof."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nkeys
import pytest
import redis

from perception.config.schema import QueueConfig, QueueSecurity
from perception.core.errors import ConfigError, QueueError
from perception.core.results import EndOfRun
from perception.queues.open import open_queue, subscribe
from perception.queues.security import PASSWORD_VARIABLE, USER_VARIABLE
from tests.certificates import Certificates, make_certificates
from tests.contract.brokers import NatsServer, RedisServer, Server
from tests.integration.nats_accounts import Key, Operator, write_user

PATIENCE_S = 30.0
SECRET = "correct-horse"
END = EndOfRun(drive_id="drive", run_id="run", count=0, reason="completed")

Run = Callable[[type[Server], str], str]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts a server with some settings; the URL of a queue on it."""
    started: list[Server] = []

    def url_of(kind: type[Server], settings: str) -> str:
        server = kind(tmp_path, settings)
        server.start()
        started.append(server)
        return f"{kind.program.removesuffix('-server')}://127.0.0.1:{server.port}/results"

    yield url_of
    for server in started:
        server.kill()


@pytest.fixture
def login(tmp_path: Path) -> Callable[[str, str], QueueSecurity]:
    def security(user: str, password: str) -> QueueSecurity:
        file = tmp_path / f"{user}.{len(password)}.password"
        file.write_text(password + "\n")
        return QueueSecurity(user=user, password_file=file)

    return security


Login = Callable[[str, str], QueueSecurity]


def config_of(url: str, security: QueueSecurity) -> QueueConfig:
    return QueueConfig(url=url, linger_s=PATIENCE_S, security=security)


def assert_let_in(url: str, security: QueueSecurity) -> None:
    config = config_of(url, security)
    subscription = subscribe(url, timeout_s=PATIENCE_S, config=config)
    queue = open_queue(url, config)
    queue.publish(END)
    assert list(subscription) == [END]
    queue.close()


def assert_refused(url: str, security: QueueSecurity, because: str) -> None:
    """Both ends say why, and what to do, at once and without telling the secret."""
    config = config_of(url, security)
    for attempt in (lambda: open_queue(url, config), lambda: subscribe(url, config=config)):
        with pytest.raises(QueueError, match=because) as error:
            attempt()
        assert url in str(error.value)
        assert SECRET not in str(error.value)


NATS_USERS = f"authorization {{ users: [ {{ user: service, password: {SECRET} }} ] }}\n"
REDIS_USERS = f"user default off\nuser service on >{SECRET} ~* &* +@all\n"


@pytest.mark.parametrize(("kind", "users"), [(NatsServer, NATS_USERS), (RedisServer, REDIS_USERS)])
def test_passwords(kind: type[Server], users: str, run: Run, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    url = run(kind, users)
    assert_let_in(url, login("service", SECRET))
    assert_refused(url, login("service", "wrong"), "refused us.*password_file")
    assert_refused(url, login("stranger", SECRET), "refused us.*password_file")
    assert_refused(url, QueueSecurity(), "refused us.*PERCEPTION_QUEUE_USER")
    monkeypatch.setenv(USER_VARIABLE, "service")
    with pytest.raises(ConfigError, match="user and a password"):
        open_queue(url)
    monkeypatch.setenv(PASSWORD_VARIABLE, SECRET)
    assert_let_in(url, QueueSecurity())


def test_nkeys(run: Run, tmp_path: Path) -> None:
    right, wrong = Key(nkeys.PREFIX_BYTE_USER), Key(nkeys.PREFIX_BYTE_USER)
    for name, key in (("right", right), ("wrong", wrong)):
        (tmp_path / name).write_bytes(key.seed + b"\n")
    url = run(NatsServer, f"authorization {{ users: [ {{ nkey: {right.public} }} ] }}\n")
    assert_let_in(url, QueueSecurity(credentials_file=tmp_path / "right"))
    assert_refused(url, QueueSecurity(credentials_file=tmp_path / "wrong"), "refused us.*credentials_file")
    assert_refused(url, QueueSecurity(), "refused us.*credentials_file")
    for text, because in (("SUNOSEED", "no seed"), ("hello", "neither")):
        (tmp_path / "broken").write_text(text)
        with pytest.raises(ConfigError, match=because):
            open_queue(url, config_of(url, QueueSecurity(credentials_file=tmp_path / "broken")))


def test_credentials(run: Run, tmp_path: Path) -> None:
    operator, elsewhere = Operator(), Operator()
    url = run(NatsServer, operator.settings())
    right = write_user(tmp_path / "right.creds", operator.account)
    wrong = write_user(tmp_path / "wrong.creds", elsewhere.account)
    expired = write_user(tmp_path / "expired.creds", operator.account, expires=int(time.time()) - 30)
    assert_let_in(url, QueueSecurity(credentials_file=right))
    for file in (wrong, expired):
        assert_refused(url, QueueSecurity(credentials_file=file), "refused us.*credentials_file")
    assert_refused(url, QueueSecurity(), "refused us.*credentials_file")


def test_credentials_that_expire_meanwhile_are_not_tried_for_ever(run: Run, tmp_path: Path) -> None:
    operator = Operator()
    url = run(NatsServer, operator.settings())
    security = QueueSecurity(
        credentials_file=write_user(tmp_path / "user.creds", operator.account, expires=int(time.time()) + 5)
    )
    queue = open_queue(url, config_of(url, security))
    subscription = subscribe(url, follow=True, config=config_of(url, security))
    with pytest.raises(QueueError, match="refused us"):
        list(subscription)
    with pytest.raises(QueueError, match="refused us"):
        publish_until_it_fails(queue.publish)


def test_a_password_that_is_withdrawn_is_not_tried_for_ever(run: Run, login: Login) -> None:
    url = run(RedisServer, REDIS_USERS)
    config = config_of(url, login("service", SECRET))
    queue = open_queue(url, config)
    subscription = subscribe(url, follow=True, config=config)
    with redis.Redis(port=int(url.rpartition(":")[2].partition("/")[0]), username="service", password=SECRET) as admin:
        admin.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "+@all")
        admin.execute_command("AUTH", "admin", "admin")
        admin.execute_command("ACL", "DELUSER", "service")
    with pytest.raises(QueueError, match="refused us"):
        list(subscription)
    with pytest.raises(QueueError, match="refused us"):
        publish_until_it_fails(queue.publish)


def publish_until_it_fails(publish: Callable[[EndOfRun], None]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        publish(END)
        time.sleep(0.02)


def tls_settings(kind: type[Server], certificates: Certificates, name: str, *, asks_for_ours: bool = False) -> str:
    certificate, key, authority = certificates.certificate(name), certificates.key(name), certificates.authority()
    if kind is RedisServer:
        return (
            f"tls-port {{port}}\ntls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority}\n"
            f"tls-auth-clients {'yes' if asks_for_ours else 'no'}\n"
        )
    asks = f'ca_file: "{authority}", verify: true' if asks_for_ours else ""
    return f'tls {{ cert_file: "{certificate}", key_file: "{key}", {asks} }}\n'


@pytest.mark.parametrize("kind", [NatsServer, RedisServer])
def test_server_certificates(kind: type[Server], run: Run, certificates: Certificates) -> None:
    url = run(kind, tls_settings(kind, certificates, "right"))
    assert_let_in(url, QueueSecurity(ca_file=certificates.authority()))
    assert_refused(url, QueueSecurity(ca_file=certificates.authority("theirs")), "certificate was refused.*ca_file")
    assert_refused(url, QueueSecurity(), "ca_file")


@pytest.mark.parametrize("kind", [NatsServer, RedisServer])
@pytest.mark.parametrize(("name", "because"), [("expired", "expired"), ("elsewhere", "not valid for '127.0.0.1'")])
def test_bad_server_certificates(
    kind: type[Server], name: str, because: str, run: Run, certificates: Certificates
) -> None:
    url = run(kind, tls_settings(kind, certificates, name))
    assert_refused(url, QueueSecurity(ca_file=certificates.authority()), f"certificate was refused.*{because}")


@pytest.mark.parametrize("kind", [NatsServer, RedisServer])
def test_client_certificates(kind: type[Server], run: Run, certificates: Certificates) -> None:
    url = run(kind, tls_settings(kind, certificates, "right", asks_for_ours=True))

    def showing(name: str) -> QueueSecurity:
        return QueueSecurity(
            ca_file=certificates.authority(),
            certificate_file=certificates.certificate(name),
            key_file=certificates.key(name),
        )

    assert_let_in(url, showing("right"))
    for name in ("wrong", "expired"):
        assert_refused(url, showing(name), "certificate_file")
    assert_refused(url, QueueSecurity(ca_file=certificates.authority()), "certificate_file")


@pytest.mark.parametrize(("kind", "users"), [(NatsServer, NATS_USERS), (RedisServer, REDIS_USERS)])
def test_no_password_is_sent_in_the_clear_where_tls_was_asked_for(
    kind: type[Server],
    users: str,
    run: Run,
    login: Login,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perception.queues.redis_connection.ANSWER_S", 1.0)
    url = run(kind, users)
    security = login("service", SECRET).model_copy(update={"ca_file": certificates.authority()})
    with Listener(int(url.rpartition(":")[2].partition("/")[0])) as between:
        through = url.replace(url.rpartition(":")[2].partition("/")[0], str(between.port))
        assert_refused(through, security, "TLS")
    assert between.visitors == 2
    assert SECRET.encode() not in between.heard


class Listener:
    """Passes bytes on to a server, and keeps what clients say."""

    def __init__(self, port: int) -> None:
        self.visitors = 0
        self.heard = b""
        self._target = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> "Listener":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.visitors += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except ConnectionRefusedError:
                client.close()
                continue
            threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        try:
            while data := source.recv(65536):
                self.heard += data if is_client else b""
                target.sendall(data)
        except OSError:
            return
        finally:
            target.close()
