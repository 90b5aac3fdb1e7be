"""Tells systemd how the service is, where systemd asked for it (`Type=notify`); sd_notify(3)."""

import os
import socket


def notify(state: str) -> None:
    """Send `READY=1`, `STOPPING=1` or the like to the socket in NOTIFY_SOCKET; nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A leading @ stands for the zero byte of Linux' abstract names.
    place = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), place)
        except OSError:  # nobody listens any more; the service goes on
            return
