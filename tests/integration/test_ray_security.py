"""Nobody joins the embedded Ray without its token."""

import os
import subprocess
import sys

import pytest
import ray as ray_module

pytestmark = pytest.mark.ray

JOIN = "import ray, sys; ray.init(address=sys.argv[1], logging_level='error', log_to_driver=False); print('joined')"


def join(address: str, token: str | None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    environment["HOME"] = "/nonexistent"  # no token of the user's own
    if token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-c", JOIN, address], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_a_stranger_is_refused(ray: None, token: str | None) -> None:
    found = join(ray_module.get_runtime_context().gcs_address, token)
    assert "joined" not in found.stdout
    assert found.returncode != 0
    assert "uthenticat" in found.stderr or "token" in found.stderr.lower()


def test_who_has_the_token_may_join(ray: None) -> None:
    found = join(ray_module.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"])
    assert "joined" in found.stdout, found.stderr[-2000:]
