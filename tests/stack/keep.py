"""Starts the stack, says where everything is, and stays until Ctrl-C."""

import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

import stack as local
from support import leash

INSIDE = "--inside"


def stay():
    """The stack and the one who waits, in a session of their own: Ctrl-C does not reach them."""
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    with tempfile.TemporaryDirectory(prefix="polycast-stack-") as folder:
        running = local.start(pathlib.Path(folder))
        for name, where in (
            ("MQTT", f"mqtt://127.0.0.1:{running.broker.mqtt}"),
            ("STOMP", f"stomp://127.0.0.1:{running.broker.stomp}"),
            ("HTTP, WebSocket", running.broker.http_url("/")),
            ("SQS", f"{running.sqs.url}/123456789012/orders"),
            ("NATS", f"nats://127.0.0.1:{running.nats.port}"),
            ("Prometheus", running.prometheus.url),
        ):
            print(f"{name:<16} {where}", flush=True)
        try:
            done.wait()
        finally:
            running.stop()


def main():
    inside = leash.hold(subprocess.Popen([sys.executable, __file__, INSIDE], start_new_session=True))
    # Also where whoever started it ignores Ctrl-C, as shells do for what runs in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(inside.wait())
    except KeyboardInterrupt:
        inside.terminate()
        sys.exit(inside.wait())


if __name__ == "__main__":
    stay() if INSIDE in sys.argv else main()
