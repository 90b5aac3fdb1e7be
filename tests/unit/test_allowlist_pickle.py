"""Pickled tables are read; a pickle that names anything else does nothing."""

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.core.errors import PayloadError
from perception.sources.allowlist_pickle import load_table
from tests.unit.small_pandaset import Call, Global, array, dump, frame, write_table


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data))
    return path


def test_reads_numbers_strings_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "table.pkl.gz"
    write_table(path, {"x": [1.5, 2.5], "d": np.array([0, 1]), "s": np.array([True, False]), "n": ["a", "b"]})
    table = load_table(path)
    assert list(table) == ["x", "d", "s", "n"]
    assert table["x"].tolist() == [1.5, 2.5]
    assert table["d"].tolist() == [0, 1]
    assert table["s"].tolist() == [True, False]
    assert table["n"].tolist() == ["a", "b"]


def _attacks(marker: str) -> dict[str, Any]:
    """Ways for a pickle to create the file `marker`, or to come closer to it."""
    touch = f"open({marker!r}, 'w').close()"
    run = Call(Global("os", "system"), (f"touch {marker}",))
    getattr_ = Global("builtins", "getattr")
    hidden = frame({"x": [1.0]})
    hidden.parts[2]["attrs"] = {"deep": [{"er": run}]}
    return {
        "os.system": run,
        "posix.system": Call(Global("posix", "system"), (f"touch {marker}",)),
        "builtins.eval": Call(Global("builtins", "eval"), (touch,)),
        "builtins.exec": Call(Global("builtins", "exec"), (touch,)),
        "builtins.getattr": Call(Call(getattr_, (Global("os", "path"), "os")), ()),
        "functools.partial": Call(Global("functools", "partial"), (Global("os", "system"), f"touch {marker}")),
        "operator.attrgetter": Call(Global("operator", "attrgetter"), ("os.system",)),
        "pandas.core.frame.DataFrame.eval": Call(Global("pandas.core.frame", "DataFrame.eval"), (touch,)),
        "pandas.eval": Call(Global("pandas", "eval"), (touch,)),
        "numpy.fromfile": Call(Global("numpy", "fromfile"), (marker,)),
        "numpy.core.multiarray.scalar": Call(Global("numpy.core.multiarray", "scalar"), ()),
        "inside a table": hidden,
    }


@pytest.mark.parametrize("name", sorted(_attacks("")))
def test_a_malicious_pickle_does_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    path = _write(tmp_path / "evil.pkl.gz", dump(_attacks(str(marker))[name]))
    with pytest.raises(PayloadError, match="is not allowed") as caught:
        load_table(path)
    refused = "os.system" if name == "inside a table" else name
    assert refused in str(caught.value) or name in {"builtins.getattr", "functools.partial"}
    assert str(path) in str(caught.value)
    assert not marker.exists()


def test_the_attack_would_work_on_a_plain_unpickler(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(dump(_attacks(str(marker))["os.system"]))
    assert marker.exists()


def test_old_opcodes_and_outside_objects_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(PayloadError, match=r"os\.system"):
        load_table(_write(tmp_path / "inst.pkl.gz", b"(S'touch " + str(marker).encode() + b"'\nios\nsystem\n."))
    with pytest.raises(PayloadError, match="outside itself"):
        load_table(_write(tmp_path / "pers.pkl.gz", b"Pwhatever\n."))
    assert not marker.exists()


def test_setting_state_on_an_allowed_name_changes_no_class(tmp_path: Path) -> None:
    """BUILD with slot state sets attributes of whatever is on the stack, a class too."""
    for name in (b"pandas.core.frame\nDataFrame\n", b"pandas.core.indexes.base\n_new_Index\n"):
        data = b"\x80\x03c" + name + b"N}X\x04\x00\x00\x00argsK\x01s\x86b."
        with pytest.raises(PayloadError, match="__setstate__"):
            load_table(_write(tmp_path / "build.pkl.gz", data))
    table = tmp_path / "table.pkl.gz"
    write_table(table, {"x": [1.0]})
    assert load_table(table)["x"].tolist() == [1.0]


@pytest.mark.parametrize("value", [[1, 2], {"x": 1}, None, array(np.zeros(3))], ids=["list", "dict", "none", "array"])
def test_what_is_no_table_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(PayloadError, match="DataFrame"):
        load_table(_write(tmp_path / "other.pkl.gz", dump(value)))


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pkl.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    assert path.stat().st_size < 20_000
    with pytest.raises(PayloadError, match="more than 1048576 bytes"):
        load_table(path, max_bytes=1 << 20)


def test_a_cut_or_foreign_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(dump(frame({"x": [1.0, 2.0]})))
    for name, data in {"cut": whole[:-20], "text": b"hello", "empty": b"", "inner": gzip.compress(b"\x80\x03")}.items():
        path = tmp_path / f"{name}.pkl.gz"
        path.write_bytes(data)
        with pytest.raises(PayloadError, match=name):
            load_table(path)
    with pytest.raises(PayloadError, match=os.strerror(2)):
        load_table(tmp_path / "absent.pkl.gz")


def test_columns_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    broken = frame({"x": [1.0], "y": [2.0]})
    layout = broken.parts[2]["_data"].parts[2][-1]["0.14.1"]
    layout["blocks"].pop()
    with pytest.raises(PayloadError, match="blocks hold"):
        load_table(_write(tmp_path / "short.pkl.gz", dump(broken)))
