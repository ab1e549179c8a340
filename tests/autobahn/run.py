"""Runs the Autobahn WebSocket cases against a server that echoes messages.

    run.py PATH_TO_ECHO_BINARY [CASE...]

Starts the server on a free port, runs the cases (all, or those that match the globs, as in 7.*)
with the PyPI package kosoku, prints a line for each section and one for each case that is not
plainly OK, and fails if a case failed, was not implemented, or if a section is missing.
"""

import asyncio
import collections
import subprocess
import sys

import kosoku

# What a full run must contain: framing, pings, reserved bits, opcodes, fragmentation, UTF-8,
# closing, limits, fragments of a large message, permessage-deflate in two groups.
SECTIONS = ("1", "2", "3", "4", "5", "6", "7", "9", "10", "12", "13")

GOOD = ("OK", "INFORMATIONAL", "NON-STRICT")

# Seconds for the whole run.
TIMEOUT_SECS = 1800


async def run(address, include):
    """Results of the cases, whether or not some failed."""
    try:
        return await asyncio.wait_for(
            kosoku.run_fuzzingclient(address, include or None, None, concurrency=4),
            TIMEOUT_SECS,
        )
    except kosoku.FailureError as failure:
        return failure.results


def report(results, include):
    """Prints what happened; true if all is well."""
    sections = collections.defaultdict(collections.Counter)
    bad = 0
    for result in results:
        behavior, close = result.behavior.value, result.behavior_close.value
        sections[result.case_id.split(".")[0]][behavior] += 1
        is_good = behavior in GOOD and close in GOOD
        bad += not is_good
        if (behavior, close) != ("OK", "OK"):
            mark = "note" if is_good else "FAIL"
            print(f"{mark} {result.case_id}: {behavior} ({result.result}), "
                  f"close {close} ({result.result_close})")
    for section in sorted(sections, key=int):
        counts = ", ".join(f"{count} {name}" for name, count in sections[section].most_common())
        print(f"section {section}: {counts}")
    missing = [] if include else [name for name in SECTIONS if name not in sections]
    if missing:
        print(f"sections that did not run: {', '.join(missing)}")
    total = collections.Counter()
    for counts in sections.values():
        total.update(counts)
    counts = ", ".join(f"{count} {name}" for name, count in total.most_common())
    print(f"autobahn: {len(results)} cases, {counts}, {bad} bad")
    return bool(results) and not bad and not missing


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    binary, include = sys.argv[1], sys.argv[2:]
    server = subprocess.Popen([binary, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.DEVNULL)
    try:
        line = server.stdout.readline()
        address = line.strip().rpartition("ws://")[2]
        if not address:
            sys.exit("the server did not start")
        is_good = report(asyncio.run(run(address, include)), include)
        if server.poll() is not None:
            print(f"the server ended with {server.returncode}")
            is_good = False
    finally:
        server.terminate()
        server.wait()
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
