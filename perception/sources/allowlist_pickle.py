"""Pickled pandas tables from strangers, read without letting the pickle run anything.

A pickle is a program: it names classes and functions and has them called. Here it may name only what a table of numbers
and strings is made of, and even those names give inert records of what was asked for, never the real thing. The columns
are then built from the records. Neither pandas nor any code that the pickle chooses takes part.
"""

import io
import pickle
import zlib
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.sources.image_files import read_payload

Table = dict[str, NDArray[Any]]

MAX_BYTES = 256 << 20
"""Unpacked size that is refused; a table of a million points with six columns has 48 MB."""

ALLOWED = frozenset(
    {
        "builtins.slice",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "pandas.core.frame.DataFrame",
        "pandas.core.indexes.base.Index",
        "pandas.core.indexes.base._new_Index",
        "pandas.core.indexes.range.RangeIndex",
        "pandas.core.internals.managers.BlockManager",
    }
)
"""What a pickle may name, exactly."""

_CHUNK_BYTES = 1 << 20
_NUMBERS = frozenset({"f8", "f4", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"})


class _Record:
    """What a pickle made: arguments of a call and the state set. Each name is a subclass that lives for one load."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "_Record":
        record = object.__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._stand_ins: dict[str, type[_Record]] = {}

    def find_class(self, module: str, name: str) -> type[_Record]:
        full = f"{module}.{name}"
        if full not in ALLOWED:
            raise PayloadError(f"the pickle names {full}, which is not allowed")
        return self._stand_ins.setdefault(full, type(name, (_Record,), {"__slots__": ()}))

    def persistent_load(self, pid: Any) -> Any:
        raise PayloadError("the pickle refers to objects outside itself")


def load_table(path: Path, max_bytes: int = MAX_BYTES) -> Table:
    """Read a gzipped pickle (`.pkl.gz`) of one pandas table: its columns by name, each (N,), numbers or objects.

    Raises PayloadError, naming the file and what was refused, where the pickle names any other class or function, is
    broken, holds no table, or unpacks to more than `max_bytes`.
    """
    data = _gunzip(path, max_bytes)
    try:
        return _columns(_Unpickler(data).load())
    except PayloadError as error:
        raise PayloadError(f"{path}: {error}") from error
    except Exception as error:
        # Broken bytes make an unpickler raise nearly anything; the path is closed by what `find_class` gives out.
        raise PayloadError(f"{path}: not a readable pickled table ({type(error).__name__}: {error})") from error


def _gunzip(path: Path, max_bytes: int) -> bytes:
    packed = memoryview(read_payload(path))
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    blocks: list[bytes] = []
    size = 0
    try:
        for start in range(0, len(packed), _CHUNK_BYTES):
            block = inflate.decompress(packed[start : start + _CHUNK_BYTES], max_bytes + 1 - size)
            size += len(block)
            blocks.append(block)
            if size > max_bytes:
                raise PayloadError(f"{path}: unpacks to more than {max_bytes} bytes; it is broken or malicious")
    except zlib.error as error:
        raise PayloadError(f"{path}: not a readable gzip file ({error})") from error
    if not inflate.eof:
        raise PayloadError(f"{path}: the gzip file is cut short")
    return b"".join(blocks)


def _columns(frame: Any) -> Table:
    """Take a table apart as pandas 0.2x and 1.x pickle it: a block manager with axes, and blocks of equal type."""
    manager = _expect(frame, "DataFrame").state
    manager = manager.get("_data", manager.get("_mgr")) if isinstance(manager, dict) else None
    layout = _expect(manager, "BlockManager").state[-1]["0.14.1"]
    columns, _ = layout["axes"]
    names = [str(name) for name in _array(_expect(columns, "_new_Index").args[1]["data"])]
    table: Table = {}
    for block in layout["blocks"]:
        values = _array(block["values"])
        places = _places(block["mgr_locs"], len(names))
        if values.ndim != 2 or len(places) != len(values):
            raise PayloadError(f"a block of shape {values.shape} is said to hold {len(places)} columns")
        table.update((names[place], row) for place, row in zip(places, values, strict=True))
    if set(table) != set(names) or len({len(column) for column in table.values()}) > 1:
        raise PayloadError(f"the blocks hold {sorted(table)}, the table has {sorted(names)}")
    return table


def _places(locations: Any, count: int) -> list[int]:
    if type(locations).__name__ == "slice":
        return list(range(count))[slice(*locations.args)]
    return [int(place) for place in _array(locations)]


def _array(record: Any) -> NDArray[Any]:
    """An array from the state (version, shape, dtype, is Fortran order, bytes or list) that numpy pickles."""
    _, shape, dtype, is_fortran, data = _expect(record, "_reconstruct").state
    code = _expect(dtype, "dtype").args[0]
    order: Literal["C", "F"] = "F" if is_fortran else "C"
    if code == "O8" or code == "O":
        if not isinstance(data, list) or len(data) != prod(shape):
            raise PayloadError(f"an array of shape {shape} holds something else than so many objects")
        objects = np.empty(len(data), dtype=object)
        objects[:] = data
        return np.reshape(objects, shape, order=order)
    if code not in _NUMBERS or dtype.state[1] not in ("<", ">", "|"):
        raise PayloadError(f"arrays of type {code!r} are not read")
    return np.reshape(np.frombuffer(data, dtype=dtype.state[1] + code), shape, order=order)


def _expect(record: Any, name: str) -> _Record:
    if not isinstance(record, _Record) or type(record).__name__ != name:
        raise PayloadError(f"expected a {name}, found a {type(record).__name__}")
    return record
