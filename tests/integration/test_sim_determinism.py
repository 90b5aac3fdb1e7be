"""Equal seeds give equal bytes of all messages in other processes, whatever number of threads renders them."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter

import pytest

from sim.rig import load_rig
from tests.conftest import PROJECT_ROOT

if importlib.util.find_spec("libsumo") is None:  # loaded here, it would warn of other versions of Arrow
    pytest.skip("needs libsumo", allow_module_level=True)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "TBB_NUM_THREADS")


def _start(settings: list[str], threads: int, library_threads: int, hash_seed: int) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        **{name: str(library_threads) for name in THREAD_VARIABLES},
        "PYTHONHASHSEED": str(hash_seed),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.sim_digests", str(threads), *settings],
        cwd=PROJECT_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("weather", ["clear", "night"])
def test_processes_agree_on_every_byte_with_any_number_of_threads(weather: str) -> None:
    settings = ["duration_s=0.3", "seed=11", "traffic.warmup_s=5", f"weather.kind={weather}", "weather.rain_mm_per_h=2"]
    counts = ((2, 2), (1, 1), (5, 4))
    started = [_start(settings, *threads, hash_seed=i) for i, threads in enumerate(counts)]
    ended = [process.communicate(timeout=250) for process in started]
    assert [process.returncode for process in started] == [0] * 3, [err for _, err in ended]
    first, one_thread, many_threads = (out.splitlines() for out, _ in ended)
    seen = Counter(line.split()[0] for line in first)
    assert set(seen) == {"ego", "route", *(sensor.name for sensor in load_rig("tiny").sensors)}
    assert all(count >= 2 for count in seen.values())
    assert len(set(first)) == len(first)
    assert one_thread == first
    assert many_threads == first
