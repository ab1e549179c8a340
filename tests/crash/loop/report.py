"""The result: a table for people, a line to quote, a file for programs."""

import json
import pathlib
import statistics
import time

from .ledger import SHOWN, Ledger


def by_protocol(ledger: Ledger) -> dict[str, dict[str, int]]:
    """For each protocol what its publishers were promised and what its receivers got."""
    table: dict[str, dict[str, int]] = {}

    def row(protocol: str) -> dict[str, int]:
        names = ("acknowledged", "received", "lost", "doubled", "disordered", "again")
        return table.setdefault(protocol, dict.fromkeys(names, 0))

    for stream in ledger.streams.values():
        row(stream.protocol)["acknowledged"] += stream.acked
    for inbox in ledger.inboxes.values():
        line = row(inbox.protocol)
        line["received"] += inbox.received
        line["lost"] += inbox.lost
        line["doubled"] += inbox.doubled
        line["disordered"] += inbox.disordered
        line["again"] += inbox.again
    return table


def result(ledger: Ledger, cycles: int, start_times: list[float]) -> dict:
    """Everything that is known at the end."""
    inboxes = ledger.inboxes.values()
    times = sorted(start_times) or [0.0]
    return {
        "cycles": cycles,
        "seconds": round(time.time() - ledger.began, 1),
        "acknowledged": ledger.acked,
        "received": sum(inbox.received for inbox in inboxes),
        "lost": sum(inbox.lost for inbox in inboxes),
        "doubled": sum(inbox.doubled for inbox in inboxes),
        "out_of_order": sum(inbox.disordered for inbox in inboxes),
        "again": sum(inbox.again for inbox in inboxes),
        "violations": dict(ledger.violations),
        "cases": ledger.cases,
        "checks": dict(sorted(ledger.checks.items())),
        "notes": dict(sorted(ledger.notes.items())),
        "starts": len(start_times),
        "start_seconds": {"median": round(statistics.median(times), 3), "most": round(times[-1], 3)},
        "protocols": by_protocol(ledger),
        "receivers": {
            inbox.name: {
                "protocol": inbox.protocol,
                "qos": inbox.qos,
                "received": inbox.received,
                "lost": inbox.lost,
                "doubled": inbox.doubled,
                "disordered": inbox.disordered,
                "again": inbox.again,
            }
            for inbox in inboxes
        },
    }


def line(found: dict) -> str:
    """The one line to quote."""
    others = sum(found["violations"].values()) - found["lost"] - found["doubled"] - found["out_of_order"]
    return (
        f"{found['cycles']} cycles, {found['acknowledged']} acknowledged, {found['lost']} lost, {found['doubled']} doubled, "
        f"{found['out_of_order']} out of order, {others} other violations"
    )


def show(found: dict) -> None:
    """Prints the result."""
    print(f"\n{'protocol':<14}{'acknowledged':>13}{'received':>10}{'lost':>8}{'doubled':>9}{'disordered':>12}{'again':>8}")
    for protocol, row in found["protocols"].items():
        print(
            f"{protocol:<14}{row['acknowledged']:>13}{row['received']:>10}{row['lost']:>8}{row['doubled']:>9}"
            f"{row['disordered']:>12}{row['again']:>8}"
        )
    print("held:   " + (", ".join(f"{name} {count}" for name, count in found["checks"].items()) or "nothing"))
    print("noted:  " + ", ".join(f"{name} {count}" for name, count in found["notes"].items()))
    took = found["start_seconds"]
    print(f"starts: {found['starts']}, median {took['median']} s, longest {took['most']} s")
    for kind, count in sorted(found["violations"].items()):
        print(f"\nVIOLATION {kind}: {count}")
        for case in found["cases"][kind]:
            print(f"  {case}")
        if count > SHOWN:
            print(f"  ... and {count - SHOWN} more")
    print(f"\n{line(found)}; {found['seconds']} s")


def write(found: dict, path: pathlib.Path) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")
