"""Takes fields of bytes out of a protobuf message without copying them.

The library copies a field twice, into its message and out of it: with long ones more than all else that
reading a sweep or an image takes. Wire format: https://protobuf.dev/programming-guides/encoding.
"""

from perception.core.errors import PayloadError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def without_fields(data: bytes | memoryview, *numbers: int) -> tuple[bytes, list[memoryview]]:
    """The message less its bytes fields `numbers`, for the library to parse, and what each of them holds.

    Of a field that comes more than once the last counts; empty without any. Raises PayloadError where it is no message.
    """
    view = memoryview(data)
    size, position, kept_from = len(view), 0, 0
    kept: list[memoryview] = []
    found = dict.fromkeys(numbers, view[:0])
    while position < size:
        start = position
        tag = view[position]
        if tag < 0x80:  # nearly all
            position += 1
        else:
            tag, position = _varint(view, position)
        kind = tag & 7
        if kind == _BYTES:
            length, position = _varint(view, position)
            position += length
            if tag >> 3 in found and position <= size:
                kept.append(view[kept_from:start])
                kept_from, found[tag >> 3] = position, view[position - length : position]
        elif kind == _VARINT:
            _, position = _varint(view, position)
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        else:
            raise PayloadError(f"a protobuf message has a field of the unknown kind {kind}")
        if position > size:
            raise PayloadError("a protobuf message ends within a field")
    kept.append(view[kept_from:])
    return b"".join(kept), list(found.values())


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends."""
    try:
        value = view[position]
        position += 1
        if value < 0x80:  # nearly all
            return value, position
        value, shift = value & 0x7F, 7
        while True:
            byte = view[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 63:
                raise PayloadError("a protobuf message holds a number of more than 64 bits")
    except IndexError:
        raise PayloadError("a protobuf message ends within a number") from None
