"""The tables that the benchmark makes are a drive, of any size."""

from pathlib import Path

import pytest

from perception.sources.nuscenes_bench import VERSION, bench_nuscenes_tables


@pytest.mark.parametrize("rows", [100, 7_000])
def test_tables_of_any_size_load_in_a_child_process(rows: int, tmp_path: Path) -> None:
    figures = bench_nuscenes_tables(tmp_path, rows)
    assert figures["scene"] == "nuscenes/scene-0000"
    assert figures["keyframes"] == min(-(-rows // 77), 41)
    assert figures["table_bytes"] == sum(path.stat().st_size for path in (tmp_path / VERSION).glob("*.json"))
    assert 0 < float(figures["baseline_mib"]) <= float(figures["peak_mib"])
