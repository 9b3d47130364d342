"""Ranks on several hosts: an address that all of them reach, and an end for all when one of them is gone.

On the CPU only; the communication of GPU and Ascend has both.
"""

import atexit
import contextlib
import os
import secrets
import selectors
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, Sequence

import psutil

from .errors import RunError

__all__ = ["address_towards", "end_together", "leave", "meeting_address", "wait_for"]

_PATIENCE = 3  # seconds for an address to answer; those of another network often never do
_GOODBYE, _LOST = b"g", b"l"  # this rank ends as it should; this rank ends because another one is lost
# A host that has been silent for 10 seconds is asked four times, 5 seconds apart; then the connection breaks.
_KEEPALIVE = {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

_lines: Dict[socket.socket, int] = {}  # this rank's connections, and the ranks at their other ends


def meeting_address(ranks) -> str:
    """The first address of rank 0's host at which every rank reaches it.

    The ranks try them all. Names would not tell: a host's own name is often 127.0.1.1 there, names of hosts may be
    equal or unknown to the others, and so may addresses be, such as those of container networks.

    Args:
        ranks: MPI's communicator.

    Raises:
        RunError: there is none.
    """
    word = secrets.token_bytes(16)
    with socket.create_server(("", 0), backlog=4096) as door:
        threading.Thread(target=_answer, args=(door, word), daemon=True).start()
        addresses, port, word = ranks.bcast((_own_addresses(), door.getsockname()[1], word), root=0)
        with ThreadPoolExecutor(len(addresses)) as pool:
            answered = list(pool.map(lambda address: _answers(address, port, word), addresses))
        answered = ranks.allgather(answered)
        door.shutdown(socket.SHUT_RDWR)  # ends the thread
    for address, by_rank in zip(addresses, zip(*answered)):
        if all(by_rank):
            return address
    raise RunError(
        f"the hosts have no network in common: not every rank reaches rank 0 at one of {', '.join(addresses)}; "
        "let the hosts' firewalls pass TCP among them."
    )


def _own_addresses() -> List[str]:
    """This host's IPv4 addresses, loopback first: the best one if all ranks are on this host."""
    entries = [entry for interface in psutil.net_if_addrs().values() for entry in interface]
    found = {entry.address for entry in entries if entry.family is socket.AF_INET}
    return sorted(found, key=lambda address: (not address.startswith("127."), address))


def _answer(door, word):
    with contextlib.suppress(OSError):  # the door is closed
        while True:
            with door.accept()[0] as visitor, contextlib.suppress(OSError):
                visitor.sendall(word)


def _answers(address, port, word):
    try:
        with socket.create_connection((address, port), timeout=_PATIENCE) as connection:
            return connection.recv(len(word)) == word
    except OSError:
        return False


def address_towards(host: str) -> str:
    """The address of this host's interface from which packets to ``host`` would leave; none is sent.

    Raises:
        RunError: there is no such host, or no route to it.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return probe.getsockname()[0]
    except OSError as error:
        raise RunError(f"cannot reach {host} from {socket.gethostname()} ({error}): check the address.") from error


def wait_for(host: str, port: int, seconds: float) -> None:
    """Wait until ``host`` takes connections at ``port``, at most ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            return socket.create_connection((host, port), timeout=_PATIENCE).close()
        time.sleep(0.1)


def end_together(rank: int, size: int, own_address: str, from_rank_0: Callable[[Sequence[float]], Sequence[float]]):
    """Connect every rank to rank 0, and end this process with status 1 once a rank at the other end is gone.

    A process that dies closes its connection, and one whose host is gone does not answer the system's own questions.
    This thread notices while the main one waits for a message that never comes.

    Args:
        from_rank_0: called by every rank with five numbers, gives every rank those of rank 0.
    """
    if rank == 0:
        with socket.create_server((own_address, 0), backlog=size) as door:
            from_rank_0([*socket.inet_aton(own_address), door.getsockname()[1]])
            arrived = [door.accept()[0] for _ in range(1, size)]
        _lines.update((line, int.from_bytes(line.recv(4), "big")) for line in arrived)
    else:
        *address, port = map(int, from_rank_0([0] * 5))
        line = socket.create_connection((socket.inet_ntoa(bytes(address)), port))
        line.sendall(rank.to_bytes(4, "big"))
        _lines[line] = 0
    for line in _lines:
        for name, value in _KEEPALIVE.items():
            level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
            line.setsockopt(level, getattr(socket, name), value)
    atexit.register(_tell, _lines, _GOODBYE)
    threading.Thread(target=_watch, args=(_lines,), daemon=True).start()


def leave(status: int) -> None:
    """End this process with ``status`` without what Python does at its end: nothing is flushed, and no library ends."""
    _tell(_lines, _GOODBYE)
    os._exit(status)


def _watch(lines: Dict[socket.socket, int]):
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                word = _heard(key.fileobj)
                if word != _GOODBYE:
                    _end(lines, lines[key.fileobj], told=word == _LOST)
                selector.unregister(key.fileobj)


def _heard(line):
    try:
        return line.recv(1)
    except OSError:
        return b""


def _end(lines, rank, told):
    if not told:
        text = f"error: rank {rank} is gone, alone or with its host: mend that and continue with --resume auto.\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
        _tell(lines, _LOST)
    os._exit(1)


def _tell(lines, word):
    for line in lines:
        with contextlib.suppress(OSError):
            line.sendall(word)
