"""Which addresses the processes below this one listen on, read from Linux itself."""

from __future__ import annotations

import os
from ipaddress import IPv6Address, ip_address
from pathlib import Path

_LISTENING = "0A"


def listening() -> set[str]:
    """Addresses of all listening TCP sockets of this process and its descendants; IPv4 ones as such."""
    inodes = {inode for pid in _family() for inode in _inodes(pid)}
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {_address(row[1].partition(":")[0]) for row in rows if row[3] == _LISTENING and row[9] in inodes}


def _family() -> set[int]:
    """This process and all its descendants."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    family, waiting = set[int](), {os.getpid()}
    while waiting:
        family |= waiting
        waiting = {pid for pid, parent in parents.items() if parent in waiting}
    return family


def _inodes(pid: int) -> set[str]:
    """Numbers of a process's sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = str(link.readlink())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _address(text: str) -> str:
    """Read an address of /proc/net: words of four bytes, each in the byte order of the machine."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    address = ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
