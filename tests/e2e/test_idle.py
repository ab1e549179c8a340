"""What a broker does while nobody asks anything of it: nothing."""

import pathlib
import time

from support import mqtt
from support.waiting import until

# A broker that looks ten times a second whether something is due never has so quiet a second.
QUIET = 3


def wake_ups(pid: int) -> int:
    """How often the threads of a process went to sleep by themselves, each time after waking up."""
    total = 0
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def test_an_idle_broker_is_not_woken(own_broker):
    clients = [mqtt.Client.open(own_broker.mqtt, keep_alive=600) for _ in range(10)]

    def is_quiet():
        before = wake_ups(own_broker.process.pid)
        time.sleep(1)
        return wake_ups(own_broker.process.pid) - before <= QUIET

    until(is_quiet, "a quiet second", patience=30)
    for client in clients:
        client.disconnect()
