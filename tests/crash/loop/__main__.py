"""The command: `tests/crash/run --help`."""

import argparse
import asyncio
import logging
import os
import pathlib
import random
import shlex
import shutil
import signal
import sys
import tempfile

from . import report
from .broker import BROKERS
from .cast import assemble
from .client import World
from .ledger import Ledger
from .power import Disk
from .scenario import Plan, Scenario


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests/crash/run", description=__doc__)
    parser.add_argument("--cycles", type=int, default=10, help="kills (default 10)")
    parser.add_argument("--seed", type=int, help="of the random choices; chosen and told if it is not given")
    parser.add_argument("--acks", type=int, default=6000, help="most acknowledgements in a cycle (default 6000)")
    parser.add_argument("--broker", choices=sorted(BROKERS), default="polycast")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the broker")
    parser.add_argument("--signal", choices=["KILL", "TERM", "NONE"], default="KILL", help="how it ends; NONE: it goes on")
    parser.add_argument("--window", type=int, default=32, help="open messages of a publisher (default 32)")
    parser.add_argument("--power-cut", action="store_true", help="data on a disk that loses its power too (root only)")
    parser.add_argument("--check-each", type=int, default=20, metavar="N", help="take stock after so many cycles")
    parser.add_argument("--patience", type=float, default=20, metavar="SECONDS", help="without progress until it is lost")
    parser.add_argument("--stop-at-first", action="store_true", help="stop when taking stock shows a violation")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=["stomp", "json", "paho", "share", "fresh", "retained", "wills", "mqtt3", "mqtt5"],
        help="leave a part out; mqtt3 and mqtt5 of the probes only",
    )
    parser.add_argument("--folder", type=pathlib.Path, help="for data, log and result (default: a new one)")
    parser.add_argument("--keep", action="store_true", help="keep the folder even if all is well")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result here too")
    return parser.parse_args()


async def loop(options: argparse.Namespace, folder: pathlib.Path, disk: Disk | None) -> dict:
    """Runs the scenario and returns the result."""
    settings = dict(one.split("=", 1) for one in options.set)
    broker = BROKERS[options.broker](folder, (disk.mount if disk else folder) / "data", settings)
    broker.configure()
    ledger = Ledger()
    world = World(broker, ledger, random.Random(options.seed), options.window)
    without = set(options.without)
    cast = assemble(world, without)
    # After a power cut nobody stops in peace.
    if disk:
        options.signal = "KILL"
    number = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "NONE": None}[options.signal]
    plan = Plan(
        options.cycles, options.acks, options.check_each, options.patience, number, options.stop_at_first, without
    )
    scenario = Scenario(world, cast, plan, disk)
    await scenario.run()
    for panic in broker.panics()[:20]:
        ledger.blame("panic", panic)
    return report.result(ledger, scenario.cycles_done, broker.start_times)


def main() -> int:
    options = arguments()
    # Writing to a connection that the kill has cut is what this is about.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    if options.power_cut and os.geteuid() != 0:
        sys.exit("--power-cut mounts a disk: for root only")
    folder = (options.folder or pathlib.Path(tempfile.mkdtemp(prefix="polycast-crash-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, {options.broker}, folder {folder}", flush=True)
    disk = Disk(folder) if options.power_cut else None
    try:
        if disk:
            disk.prove()
        found = asyncio.run(loop(options, folder, disk))
    finally:
        if disk:
            disk.unplug()
    found["seed"] = options.seed
    found["command"] = repeat(options.seed)
    report.show(found)
    report.write(found, folder / "result.json")
    if options.json:
        report.write(found, options.json)
    if found["violations"]:
        print(f"FAILED. Data, log and result are in {folder}; again: {found['command']}")
        return 1
    if not (options.keep or options.folder):
        shutil.rmtree(folder)
    return 0


def repeat(seed: int) -> str:
    """The command with the same seed; what the clock decides is not the same."""
    given = sys.argv[1:]
    if not any(one.startswith("--seed") for one in given):
        given += ["--seed", str(seed)]
    return shlex.join(["tests/crash/run", *given])


if __name__ == "__main__":
    sys.exit(main())
