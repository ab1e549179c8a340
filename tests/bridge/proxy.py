"""A wire between two programs that a test can cut, hold still, or make slow."""

import contextlib
import socket
import threading
import time

LOOPBACK = "127.0.0.1"


class Proxy:
    """Carries TCP connections from a port of its own to another one."""

    def __init__(self, target: int):
        self.target = target
        self.bytes_per_second = 0
        self._flows = threading.Event()
        self._flows.set()
        self._open = True
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """Every connection breaks, and new ones too, for a while."""
        self.sever()
        time.sleep(seconds)
        self.mend()

    def sever(self) -> None:
        """Every connection breaks, and new ones too."""
        self._open = False
        self._close_all()

    def mend(self) -> None:
        """New connections are carried again."""
        self._open = True

    def hold(self, seconds: float) -> None:
        """Connections stay and carry nothing for a while: neither end is told."""
        self.freeze()
        time.sleep(seconds)
        self.thaw()

    def freeze(self) -> None:
        """Connections stay and carry nothing."""
        self._flows.clear()

    def thaw(self) -> None:
        """Connections carry again, what came in the meantime too."""
        self._flows.set()

    def slow(self, bytes_per_second: int, seconds: float) -> None:
        self.bytes_per_second = bytes_per_second
        time.sleep(seconds)
        self.bytes_per_second = 0

    def close(self) -> None:
        self._listener.close()
        self._flows.set()
        self._close_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        try:
            if not self._open:
                raise OSError("cut")
            far = socket.create_connection((LOOPBACK, self.target), 10)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        with self._lock:
            self._sockets |= {near, far}
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2048 if self.bytes_per_second else 65536):
                self._flows.wait()
                if self.bytes_per_second:
                    time.sleep(len(data) / self.bytes_per_second)
                sink.sendall(data)
        for one in (source, sink):
            _close(one)
        with self._lock:
            self._sockets -= {source, sink}

    def _close_all(self) -> None:
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _close(one)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
