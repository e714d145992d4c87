"""Whether a download can succeed at all, asked before libraries try it again and again."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies


def no_way_to(address: str) -> str:
    """Why nothing can be downloaded from a URL: its host's name is not known here, as without a network. Empty where it
    is known, or where a proxy would be asked.
    """
    host = urlsplit(address).hostname or ""
    if getproxies():
        return ""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return f"no network: the name {host} cannot be resolved"
    return ""
