"""An address of this machine that is no loopback address: those are neither counted nor banned.

Most machines have one. Where there is none, one is made and removed again when the tests end: as root or with sudo.
"""

import atexit
import functools
import os
import shutil
import socket
import subprocess


@functools.cache
def outside() -> str:
    """The address; fails, saying what is missing, where there is none and none can be made."""
    return _there() or _made()


def _there() -> str | None:
    """The address that packets for elsewhere would come from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = probe.getsockname()[0]
    return None if found.startswith("127.") else found


def _made() -> str:
    """One of the addresses for measurements (RFC 2544), another for each process, on the loopback device."""
    number = os.getpid() % 65_000 + 256
    address = f"198.18.{number >> 8}.{number & 255}"
    done = _ip("add", address)
    assert done.returncode == 0, (
        "this machine has only loopback addresses, and this test needs another, which root (or sudo without a "
        f"password) could make: {' '.join(done.args)}: {done.stderr}"
    )
    atexit.register(_ip, "del", address)
    return address


def _ip(what: str, address: str) -> subprocess.CompletedProcess:
    program = shutil.which("ip", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert program, "ip is missing: tests/run --setup"
    command = [program, "address", what, f"{address}/32", "dev", "lo"]
    if os.getuid() != 0:
        command = ["sudo", "-n", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)
