"""The broker under test as a process: configured, started, killed, started again on the same ports and data."""

import asyncio
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[3]
HOST = "127.0.0.1"
START_BOUND = 60.0
"""Seconds within which the broker accepts connections, however much it recovers."""


class BrokerFailed(Exception):
    """The broker ended by itself or did not start: nothing more can be tested."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now. They are kept over restarts, so the system cannot choose them at each start."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind((HOST, 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Broker:
    """A broker that lives in `folder`; its data is in `data`. Subclasses know the program."""

    name = ""
    protocols: set[str] = set()

    def __init__(self, folder: pathlib.Path, data: pathlib.Path, settings: dict[str, str]):
        self.folder = folder
        self.data = data
        self.settings = settings
        self.log = folder / "broker.log"
        self.mqtt, self.stomp, self.http = free_ports(3)
        self.process: subprocess.Popen | None = None
        self.up = asyncio.Event()
        self.down = asyncio.Event()
        self.down.set()
        self.starts = 0
        self.start_times: list[float] = []

    def command(self) -> list[str]:
        raise NotImplementedError

    def configure(self) -> None:
        """Writes the configuration, once."""
        raise NotImplementedError

    def spawn(self) -> None:
        """Starts the process and does not wait."""
        with self.log.open("ab") as out:
            out.write(f"---- start {self.starts}\n".encode())
            out.flush()
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=plain_environment()
            )
        self.starts += 1
        self.spawned_at = time.monotonic()
        self.down.clear()

    async def ready(self) -> None:
        """Waits until it accepts connections, then lets the clients go."""
        ports = [self.mqtt] + ([self.stomp, self.http] if "stomp" in self.protocols else [])
        while ports:
            if self.process.poll() is not None:
                raise BrokerFailed(f"did not start: exit code {self.process.returncode}\n{self.tail()}")
            if time.monotonic() - self.spawned_at > START_BOUND:
                raise BrokerFailed(f"did not start within {START_BOUND} s\n{self.tail()}")
            if accepts(ports[0]):
                ports.pop(0)
            else:
                await asyncio.sleep(0.005)
        self.start_times.append(time.monotonic() - self.spawned_at)
        self.up.set()

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kills it. From here on its clients take lost connections as they come."""
        self.expect_end()
        self.process.send_signal(number)
        code = self.process.wait(60)
        if number == signal.SIGTERM and code != 0:
            raise BrokerFailed(f"exit code {code} after SIGTERM\n{self.tail()}")

    def freeze(self) -> None:
        """Stops it where it stands: none of its threads runs on, though one may be within a call of the system."""
        self.process.send_signal(signal.SIGSTOP)
        while states(self.process.pid) & set("RS"):
            os.sched_yield()

    def expect_end(self) -> None:
        """What ends from now on ends because of us."""
        self.up.clear()
        self.down.set()

    def look(self) -> None:
        """Fails if it ended by itself."""
        if self.up.is_set() and self.process.poll() is not None:
            self.up.clear()
            raise BrokerFailed(f"ended by itself: exit code {self.process.returncode}\n{self.tail()}")

    def tail(self, size: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-size:]

    def panics(self) -> list[str]:
        """Lines of the log that tell of a panic."""
        with self.log.open(errors="replace") as lines:
            return [line.rstrip() for line in lines if "panic" in line]


def plain_environment() -> dict[str, str]:
    """The environment without variables that would be settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POLYCAST_")}


def states(pid: int) -> set[str]:
    """The letters of proc(5) for what the threads of a process do: running, sleeping, stopped, waiting for a disk."""
    found = set()
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            found.add(path.read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass  # The thread has just ended.
    return found


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Polycast(Broker):
    """Polycast with limits so wide that none of them drops a message."""

    name = "polycast"
    protocols = {"mqtt", "stomp", "json"}
    wide = {
        "log.level": "info",
        "limits.session_queue_messages": 10_000_000,
        "limits.session_queue_size": "4 GiB",
        "limits.group_queue_messages": 10_000_000,
        "limits.group_queue_size": "4 GiB",
        "limits.group_queues_size": "16 GiB",
        "limits.connections_per_sec": 100_000,
        "limits.connection_burst": 100_000,
        "limits.idempotency_keys": 10_000_000,
        "limits.idempotency_window": "1d",
        "limits.drain_grace": "1s",
        "store.recovery_grace": "500ms",
    }

    def __init__(self, folder, data, settings):
        super().__init__(folder, data, settings)
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.program = os.environ.get("POLYCAST_BIN") or str(target / "debug" / "polycast")
        if not pathlib.Path(self.program).exists():
            raise SystemExit(f"{self.program} is missing: cargo build -p broker")

    def command(self):
        return [self.program, "serve", "--config", str(self.folder / "polycast.toml")]

    def configure(self):
        shown = subprocess.run([self.program, "default-config"], check=True, capture_output=True, text=True).stdout
        known = {
            f"{section}.{key}" for section, keys in tomllib.loads(shown).items() if isinstance(keys, dict) for key in keys
        }
        # What this build does not know yet is left out; what was asked for by hand has to be right.
        values = {key: value for key, value in self.wide.items() if key in known} | self.settings
        values |= {f"{name}.listen": f"{HOST}:{port}" for name, port in self.listeners().items()}
        sections: dict[str, list[str]] = {}
        for key, value in sorted(values.items()):
            section, _, name = key.rpartition(".")
            sections.setdefault(section, []).append(f"{name} = {toml(value)}")
        lines = [f'data_dir = "{self.data}"', *sections.pop("", [])]
        for section, keys in sections.items():
            lines += ["", f"[{section}]", *keys]
        (self.folder / "polycast.toml").write_text("\n".join(lines) + "\n")

    def listeners(self) -> dict[str, int]:
        return {"mqtt": self.mqtt, "stomp": self.stomp, "http": self.http}


def toml(value) -> str:
    """A value in TOML; text that is a number or a truth value stays one."""
    text = str(value)
    return text if text in ("true", "false") or text.isdecimal() else '"' + text.replace('"', '\\"') + '"'


class Mosquitto(Broker):
    """Debian's mosquitto at its safest: the database is written at each change."""

    name = "mosquitto"
    protocols = {"mqtt"}

    def command(self):
        return [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(self.folder / "mosquitto.conf")]

    def configure(self):
        self.data.mkdir(exist_ok=True)
        values = {
            "listener": f"{self.mqtt} {HOST}",
            "allow_anonymous": "true",
            "persistence": "true",
            "persistence_location": f"{self.data}/",
            "autosave_on_changes": "true",
            "autosave_interval": "1",
            "max_queued_messages": "0",
            "max_inflight_messages": "32",
            "max_packet_size": "1000000",
            "user": "root",
        } | self.settings
        (self.folder / "mosquitto.conf").write_text("".join(f"{key} {value}\n" for key, value in values.items()))


BROKERS = {broker.name: broker for broker in (Polycast, Mosquitto)}
