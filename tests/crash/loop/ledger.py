"""What was sent, what was acknowledged and what arrived; and every broken promise that was seen.

A stream is what one publisher sends to one topic: its messages are numbered from 1 and sent in this order until each is
acknowledged. An inbox is one receiver's view (or that of a group whose members share the messages). Both keep numbers,
not messages, so that a million of them fit.
"""

import time
from array import array
from collections import Counter

FILLER = bytes(33 + position % 90 for position in range(9000))
SHOWN = 12
"""Cases of each kind of violation that are told in full."""


def matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT topic filter selects a topic; of `$share/GROUP/FILTER` the filter counts."""
    wanted = topic_filter.split("/")
    if wanted[0] == "$share":
        wanted = wanted[2:]
    levels = topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position == len(levels) or level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)


class Stream:
    """The messages of one publisher to one topic."""

    def __init__(self, ledger: "Ledger", name: str, protocol: str, topic: str, qos: int, once: bool):
        self.ledger = ledger
        self.name = name
        self.key = name.encode()
        self.protocol = protocol
        self.topic = topic
        self.topic_bytes = topic.encode()
        self.qos = qos
        self.once = once
        """Whether the broker gets each message exactly once, however often it is sent."""
        self.by_others = False
        """Whether its client does not tell what it sends again."""
        self.acked = 0
        self.acked_at = array("d", [0.0])
        self.acked_cycle = array("H", [0])
        self.resent: set[int] = set()
        """Messages that were sent more than once: unless the broker gets each once, these may come more than once."""

    @property
    def sent(self) -> int:
        return len(self.acked_at) - 1

    def next(self) -> tuple[int, bytes]:
        """Number and payload of a new message."""
        number = len(self.acked_at)
        self.acked_at.append(0.0)
        self.acked_cycle.append(0)
        return number, self.payload(number)

    def payload(self, number: int) -> bytes:
        """Mostly short, now and then large, so that records of every size are torn."""
        size = 9000 if number % 199 == 0 else number * 37 % 300
        return b"%s %d %s" % (self.key, number, FILLER[:size])

    def ack(self, number: int) -> None:
        """The broker promised to deliver it."""
        if self.acked_at[number]:
            self.ledger.blame("acknowledged twice", f"{self.name} {number}")
            return
        self.acked_at[number] = time.time()
        self.acked_cycle[number] = self.ledger.cycle
        self.acked += 1
        self.ledger.acked += 1

    def story(self, number: int) -> str:
        """Who sent it where, and when it was acknowledged."""
        at = self.acked_at[number] if number < len(self.acked_at) else 0.0
        if not at:
            when = "not acknowledged"
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03}"
            when = f"acknowledged in cycle {self.acked_cycle[number]} at {clock}"
        return f"{self.name} {number} (QoS {self.qos} to {self.topic}, {when})"


class Mark:
    """How far one receiver is with one stream."""

    __slots__ = ("stream", "last", "gaps", "settled")

    def __init__(self, stream: Stream):
        self.stream = stream
        self.last = 0
        self.gaps: set[int] = set()
        """Messages before `last` that have not come yet."""
        self.settled: set[int] = set()
        """Messages that the broker confirmed to be done with."""


class Inbox:
    """What one receiver got, or all members of a group together.

    `qos` is what it subscribed with. Messages of a stream that is sent once come exactly once at QoS 2; in all other cases
    at least once, and their first occurrences in order unless several members take them (`ordered`).
    """

    def __init__(self, ledger: "Ledger", name: str, protocol: str, filters: list[str], qos: int, ordered: bool = True):
        self.ledger = ledger
        self.name = name
        self.protocol = protocol
        self.filters = filters
        self.qos = qos
        self.ordered = ordered
        self.marks: dict[bytes, Mark] = {}
        self.received = 0
        self.again = 0
        self.lost = self.doubled = self.disordered = 0

    def wants(self, stream: Stream) -> bool:
        return any(matches(one, stream.topic) for one in self.filters)

    def join(self, stream: Stream) -> None:
        self.marks[stream.key] = Mark(stream)

    def take(self, topic: bytes, payload: bytes, qos: int = -1, dup: bool = False) -> tuple[Mark, int] | None:
        """A message has arrived: as which one of which stream, or None if it is not one of ours."""
        name, _, rest = payload.partition(b" ")
        mark = self.marks.get(name)
        if mark is None:
            self.ledger.blame("stray message", f"{self.name} got {payload[:60]!r} on {topic!r}")
            return None
        stream = mark.stream
        number = int(rest[: rest.find(b" ")])
        if topic != stream.topic_bytes or payload != stream.payload(number):
            self.ledger.blame("damaged message", f"{self.name} got {payload[:60]!r}... on {topic!r}")
        if qos >= 0 and qos != min(self.qos, stream.qos):
            self.ledger.blame("other QoS", f"{self.name} got {stream.name} {number} at QoS {qos}")
        if number == mark.last + 1:
            mark.last = number
            self.received += 1
        elif number > mark.last:
            mark.gaps.update(range(mark.last + 1, number))
            mark.last = number
            self.received += 1
        elif number in mark.gaps:
            mark.gaps.discard(number)
            self.received += 1
            self._late(mark, number)
        else:
            self._second(mark, number)
        return mark, number

    def _late(self, mark: Mark, number: int) -> None:
        if self.ordered:
            self.disordered += 1
            story = mark.stream.story(number)
            self.ledger.blame("out of order", f"{self.name} got {story} after {mark.last}")

    def _second(self, mark: Mark, number: int) -> None:
        self.again += 1
        stream = mark.stream
        if self.qos == 2 and stream.qos == 2:
            if not stream.by_others:
                self.doubled += 1
                self.ledger.blame("doubled", f"{self.name} got {stream.story(number)} again in {self.ledger.now()}")
        elif number in mark.settled and not stream.by_others and (stream.once or number not in stream.resent):
            self.ledger.blame("settled and sent again", f"{self.name} got {stream.story(number)} in {self.ledger.now()}")

    def settle(self, mark: Mark, number: int) -> None:
        """The broker confirmed that this receiver is done with the message."""
        mark.settled.add(number)

    def behind(self) -> int:
        """Messages that were acknowledged and have not arrived, about."""
        return sum(mark.stream.acked - mark.last + len(mark.gaps) for mark in self.marks.values())

    def complete(self) -> bool:
        return all(not mark.gaps and mark.last >= mark.stream.sent for mark in self.marks.values())

    def check(self) -> None:
        """Every acknowledged message has to be here by now. What is blamed is not looked at again."""
        for mark in self.marks.values():
            acked_at = mark.stream.acked_at
            missing = [number for number in mark.gaps if acked_at[number]]
            missing += [number for number in range(mark.last + 1, len(acked_at)) if acked_at[number]]
            for number in sorted(missing):
                self.lost += 1
                self.ledger.blame("lost", f"{self.name} never got {mark.stream.story(number)}")
            mark.gaps.clear()
            mark.settled.clear()
            mark.last = max(mark.last, mark.stream.sent)


class Ledger:
    """All streams and inboxes of a run, and what was broken in it."""

    def __init__(self):
        self.cycle = 0
        self.acked = 0
        self.streams: dict[str, Stream] = {}
        self.inboxes: dict[str, Inbox] = {}
        self.violations: Counter[str] = Counter()
        self.cases: dict[str, list[str]] = {}
        self.notes: Counter[str] = Counter()
        """Figures that are no violations."""
        self.checks: Counter[str] = Counter()
        """How often each promise beside the messages was looked at and held."""
        self.began = time.time()

    def stream(self, name: str, protocol: str, topic: str, qos: int, once: bool | None = None) -> Stream:
        stream = Stream(self, name, protocol, topic, qos, qos == 2 if once is None else once)
        self.streams[name] = stream
        return stream

    def inbox(self, name: str, protocol: str, filters: list[str], qos: int, ordered: bool = True) -> Inbox:
        inbox = Inbox(self, name, protocol, filters, qos, ordered)
        self.inboxes[name] = inbox
        return inbox

    def connect(self) -> None:
        """Tells every inbox of its streams; after the last of both was made."""
        for inbox in self.inboxes.values():
            for stream in self.streams.values():
                if inbox.wants(stream):
                    inbox.join(stream)

    def now(self) -> str:
        return f"cycle {self.cycle} at {time.strftime('%H:%M:%S')}"

    def blame(self, kind: str, case: str) -> None:
        """A promise was broken."""
        self.violations[kind] += 1
        cases = self.cases.setdefault(kind, [])
        if len(cases) < SHOWN:
            cases.append(f"[cycle {self.cycle}] {case}")

    def received(self) -> int:
        """Messages that came to a receiver for the first time."""
        return sum(inbox.received for inbox in self.inboxes.values())
