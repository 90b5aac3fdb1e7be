"""Who may join a Zenoh queue by login and access control, and what becomes of configurations that are none."""

from pathlib import Path
from typing import Any

import pytest

from perception.config.schema import QueueConfig, QueueSecurity
from perception.core.errors import ConfigError, QueueError
from perception.core.results import EndOfRun
from perception.queues.open import open_queue, subscribe
from perception.queues.security import PASSWORD_VARIABLE, USER_VARIABLE
from tests.integration.zenoh_security.conftest import PATIENCE_S, SECRET, Place, Producers, Proof, consume, joined


def users(folder: Path, **passwords: str) -> dict[str, Any]:
    file = folder / "users.txt"
    file.write_text("".join(f"{user}:{password}\n" for user, password in passwords.items()))
    return {"transport": {"auth": {"usrpwd": {"dictionary_file": str(file)}}}}


def test_who_shares_a_login_joins_on_loopback(producers: Producers, proof: Proof, url: str) -> None:
    config = QueueConfig(url=url, security=proof.login("planner", SECRET))
    assert joined(producers, config, config) == ["genuine"]


@pytest.mark.parametrize(
    ("user", "password", "why"),
    [
        ("planner", SECRET, None),
        ("planner", "wrong", "refused our user or password"),
        ("nobody", SECRET, "refused our user or password"),
        (None, "", "asks for a user and password"),
    ],
)
def test_logins_at_an_endpoint(
    producers: Producers,
    proof: Proof,
    place: Place,
    url: str,
    user: str | None,
    password: str,
    why: str | None,
) -> None:
    listening = place.listening("tcp", **users(place.folder, planner=SECRET, dashboard="other"))
    producers.start(QueueConfig(url=url, zenoh_config=listening))
    producers.publish()
    security = QueueSecurity() if user is None else proof.login(user, password)
    config = QueueConfig(url=url, security=security, zenoh_config=place.connecting("tcp"))
    if why is None:
        assert consume(config) == ["genuine"]
        return
    with pytest.raises(QueueError, match=why) as refused:
        consume(config)
    assert SECRET not in str(refused.value)


def test_a_login_comes_from_the_environment_too(
    producers: Producers, place: Place, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    producers.start(QueueConfig(url=url, zenoh_config=place.listening("tcp", **users(place.folder, planner=SECRET))))
    producers.publish()
    monkeypatch.setenv(USER_VARIABLE, "planner")
    monkeypatch.setenv(PASSWORD_VARIABLE, SECRET)
    assert consume(QueueConfig(url=url, zenoh_config=place.connecting("tcp"))) == ["genuine"]


def test_access_control_lets_a_user_read_but_not_publish(
    producers: Producers, proof: Proof, place: Place, url: str
) -> None:
    key = url.removeprefix("zenoh:")
    control = {
        "enabled": True,
        "default_permission": "allow",
        "rules": [
            {
                "id": "publishing",
                "permission": "deny",
                "flows": ["ingress"],
                "messages": ["put", "delete", "declare_queryable", "reply", "liveliness_token"],
                "key_exprs": [f"{key}/**"],
            }
        ],
        "subjects": [{"id": "readers", "usernames": ["dashboard"]}],
        "policies": [{"rules": ["publishing"], "subjects": ["readers"]}],
    }
    logins = users(place.folder, planner=SECRET, dashboard="other")
    producers.start(QueueConfig(url=url, zenoh_config=place.listening("tcp", access_control=control, **logins)))
    connecting = place.connecting("tcp")
    dashboard = QueueConfig(url=url, security=proof.login("dashboard", "other"), zenoh_config=connecting, linger_s=0.5)
    planner = QueueConfig(url=url, security=proof.login("planner", SECRET), zenoh_config=connecting)
    subscription = subscribe(url, timeout_s=PATIENCE_S, config=planner)
    forger = open_queue(url, dashboard)
    forger.publish(EndOfRun(drive_id="drive", run_id="forged", count=0, reason="completed"))
    forger.close()
    producers.publish()
    assert [item.run_id for item in subscription] == ["genuine"]
    assert consume(dashboard) == ["genuine"]


def test_a_consumer_may_come_before_the_endpoint_it_is_told_of(producers: Producers, place: Place, url: str) -> None:
    subscription = subscribe(
        url, timeout_s=PATIENCE_S, config=QueueConfig(url=url, zenoh_config=place.connecting("tcp"))
    )
    producers.start(QueueConfig(url=url, zenoh_config=place.listening("tcp")))
    producers.publish()
    assert [item.run_id for item in subscription] == ["genuine"]


def test_files_that_are_none_are_named(tmp_path: Path, url: str) -> None:
    file = tmp_path / "zenoh.json5"
    with pytest.raises(ConfigError, match=f"queue.zenoh_config: {file}"):
        open_queue(url, QueueConfig(url=url, zenoh_config=file))
    file.write_text("{listen: 5")
    with pytest.raises(ConfigError, match=f"queue.zenoh_config: {file}"):
        subscribe(url, config=QueueConfig(url=url, zenoh_config=file))
    with pytest.raises(QueueError, match="Zenoh cannot start"):
        open_queue(
            url, QueueConfig(url=url, security=QueueSecurity(ca_file=file, certificate_file=file, key_file=file))
        )
