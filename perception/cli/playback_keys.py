"""Keys that steer a replay on a terminal."""

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from perception.pipeline.playback import Playback

KEYS: Final = "keys: space pause, s step, [ ] seek 5 s, - + rate, q quit"
SEEK_S: Final = 5.0
_LONGEST_KEY: Final = 8

ACTIONS: Final[dict[bytes, Callable[[Playback], None]]] = {
    b" ": Playback.toggle,
    b"s": Playback.step,
    b"\x1b[C": Playback.step,
    b"]": lambda playback: playback.seek_by(SEEK_S),
    b"[": lambda playback: playback.seek_by(-SEEK_S),
    b"+": Playback.faster,
    b"=": Playback.faster,
    b"-": Playback.slower,
    b"q": Playback.quit,
}
"""By what the terminal sends; the right arrow steps, too."""


@contextmanager
def steered_by_keys(playback: Playback) -> Iterator[bool]:
    """Whether keys steer here: only where we are in the foreground of a terminal, which is then left as it was."""
    if not _is_ours():
        yield False
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    wake, woken = os.pipe()
    listener = threading.Thread(target=_listen, args=(playback, keyboard, wake), name="playback-keys", daemon=True)
    try:
        tty.setcbreak(keyboard)
        listener.start()
        yield True
    finally:
        os.close(woken)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        if listener.ident is not None:
            listener.join()
        os.close(wake)


def _is_ours() -> bool:
    """A job in the background would be stopped if it touched the terminal."""
    try:
        return sys.stdin.isatty() and sys.stderr.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _listen(playback: Playback, keyboard: int, wake: int) -> None:
    """Until the other end of `wake` is closed, or the terminal is gone."""
    while wake not in (ready := select.select([keyboard, wake], [], [])[0]):
        pressed = os.read(keyboard, _LONGEST_KEY) if ready else b""
        if not pressed:
            return
        keys = [pressed] if pressed in ACTIONS else [pressed[i : i + 1] for i in range(len(pressed))]
        for key in keys:
            if (action := ACTIONS.get(key)) is not None:
                action(playback)
