"""Connections by which the processes of a run learn at once that one of them has ended, and end with one sentence.

Without them a process whose neighbour has died waits in a collective until JAX's heartbeat gives up, after 100 s, with
a stack trace. Each process holds a connection to the first one, which passes on what it hears.
"""

import atexit
import ctypes
import json
import os
import secrets
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from electra_jax.errors import Interrupted, MachineError, UserError

# Seconds: until a connection stands, and in which a failure of JAX's may turn out to be the end of another process.
CONNECT, EXPLAIN = 20.0, 5.0
# A machine that has lost its power says nothing: it is asked after so many seconds of silence, so often.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
TOKEN_SIZE, ADDRESS_SIZE = 16, 64


@contextmanager
def lifeline(report: Callable[[str], None]) -> Iterator[None]:
    """Inside, the end of another process ends this one with exit code 1 and a sentence that says which and why.

    Where the block is left by an error, the others hear of it. Does nothing for one process alone.
    """
    if jax.process_count() == 1:
        yield
        return
    peers = _connect()
    if peers is None:
        report("the processes cannot reach each other's ports: when one dies, the others notice it after 100 s")
        yield
        return
    line = _Lifeline(peers)
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            line.watcher.join(EXPLAIN)  # it ends this process where the error is the end of another one
        if isinstance(error, Interrupted):  # all stop together, with their states saved
            line.leave("")
        else:
            line.leave(str(error) or type(error).__name__)
            # JAX would wait for the others on its way out; registered last, this comes first.
            atexit.register(_exit, getattr(error, "exit_code", MachineError.exit_code))
        raise
    line.leave("")


class _Lifeline:
    """This process's connections, by the number of the process at the other end."""

    def __init__(self, peers: dict[int, socket.socket]):
        self.peers = peers
        self._left = threading.Event()
        _delay_abort()
        self.watcher = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self.watcher.start()

    def leave(self, why: str) -> None:
        """Says farewell; with a reason, the others end too."""
        self._left.set()
        self._tell(jax.process_index(), why)
        self.watcher.join()
        for peer in self.peers.values():
            peer.close()

    def _watch(self) -> None:
        watched = {peer: index for index, peer in self.peers.items()}
        while watched and not self._left.is_set():
            readable, _, _ = select.select(list(watched), [], [], 0.2)
            for peer in readable:
                index, why = _hear(peer, watched[peer])
                if why == "":  # its work is done
                    del watched[peer]
                elif not self._left.is_set():
                    self._tell(index, why)
                    end_process(
                        f"process {index} of this run has ended ({why}), and so do all: start them again to go on"
                    )

    def _tell(self, index: int, why: str) -> None:
        words = json.dumps([index, why]).encode() + b"\n"
        for peer in self.peers.values():
            with suppress(OSError):
                peer.sendall(words)


def _hear(peer: socket.socket, index: int) -> tuple[int, str]:
    """Which process has ended, and why; "" after a farewell."""
    words = b""
    try:
        while not words.endswith(b"\n"):
            more = peer.recv(4096)
            if not more:
                return index, "killed, or its machine is lost"
            words += more
        index, why = json.loads(words)
        return index, why
    except OSError as error:
        return index, f"killed, or its machine is lost: {error.strerror}"


def _connect() -> dict[int, socket.socket] | None:
    """A connection of each process with the first one; None in all of them where one could not be made."""
    first, server, host, port, token = jax.process_index() == 0, None, "", 0, b""
    if first:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        server = socket.create_server(("", 0), family=family, backlog=jax.process_count(), dualstack_ipv6=both)
        host, port, token = _own_address(), server.getsockname()[1], secrets.token_bytes(TOKEN_SIZE)
    words = token.ljust(TOKEN_SIZE) + f"{host}:{port}".encode().ljust(ADDRESS_SIZE)
    said = multihost_utils.broadcast_one_to_all(np.frombuffer(words, np.uint8))
    words = np.asarray(said).astype(np.uint8).tobytes()
    token = words[:TOKEN_SIZE]
    host, _, number = words[TOKEN_SIZE:].decode().strip().rpartition(":")
    peers: dict[int, socket.socket] = {}
    if not first:
        with suppress(OSError):
            peers[0] = socket.create_connection((host, int(number)), CONNECT)
            peers[0].sendall(token + jax.process_index().to_bytes(4, "big"))
    if not np.all(multihost_utils.process_allgather(np.array(first or bool(peers)))):
        return None
    if server is not None:
        while len(peers) < jax.process_count() - 1:
            peer, _ = server.accept()
            peer.settimeout(CONNECT)
            with suppress(OSError):
                words = peer.recv(TOKEN_SIZE + 4, socket.MSG_WAITALL)
                if secrets.compare_digest(words[:TOKEN_SIZE], token):  # else a stranger
                    peers[int.from_bytes(words[TOKEN_SIZE:], "big")] = peer
        server.close()
    for peer in peers.values():
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return peers


def _own_address() -> str:
    """The address at which the others reach this machine: the coordinator's, which runs here, or the way out's."""
    given = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if given:
        return given.rpartition(":")[0].strip("[]")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation; nothing is sent
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def _delay_abort() -> None:
    """JAX aborts a process whose coordinator has died at the same moment in which this room hears of it.

    With the C library's sleep as the signal's handler, whose argument is the signal's number, 6 seconds are left.
    """
    library = ctypes.CDLL(None)
    library.signal(int(signal.SIGABRT), library.sleep)


def end_process(sentence: str) -> NoReturn:
    """Ends this process from any of its threads, as a MachineError with this message would."""
    print(f"electra-jax: {sentence}", file=sys.stderr)
    _exit(MachineError.exit_code)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
