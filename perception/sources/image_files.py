"""Compressed images as bytes, checked to be whole without decoding their pixels."""

from pathlib import Path

from perception.core.errors import PayloadError

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_TAIL_BYTES = 256


def read_image(path: Path) -> bytes:
    """Bytes of a JPEG or PNG. Raises PayloadError where the file is missing, empty, another format or cut short.

    Decoders fill the missing part of a cut JPEG with grey and report success; only its end marker tells.
    """
    data = read_payload(path)
    check_image(path, data)
    return data


def check_image(where: Path | str, data: bytes) -> None:
    """Raise PayloadError, naming `where`, unless `data` is a whole JPEG or PNG."""
    tail = data[-4096:].rstrip(b"\0")[-_TAIL_BYTES:]
    if data.startswith(_JPEG_START):
        is_whole = _JPEG_END in tail
    elif data.startswith(_PNG_START):
        is_whole = _PNG_END in tail
    else:
        raise PayloadError(f"{where}: neither JPEG nor PNG (starts with {data[:4]!r})")
    if not is_whole:
        raise PayloadError(f"{where}: the image is cut short after {len(data)} bytes")


def read_payload(path: Path) -> bytes:
    """Bytes of a sensor file. Raises PayloadError where it is missing, unreadable or empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PayloadError(f"{path}: {error.strerror}") from error
    if not data:
        raise PayloadError(f"{path}: the file is empty")
    return data
