"""What the clients of all protocols share: they belong to a run, are connected or not, and come back after each crash."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

from .broker import Broker
from .ledger import Ledger

PATIENCE = 30.0
"""Seconds that a client waits for an answer of a broker that runs."""


class Lost(Exception):
    """The connection ended, or there was none."""


@dataclass
class World:
    """What all parts of a run know."""

    broker: Broker
    ledger: Ledger
    rng: random.Random
    window: int = 32
    """Messages that a publisher may have open."""
    finishing: bool = False
    """No publisher makes new messages any more."""
    paused: bool = False
    """Publishers wait because receivers are far behind."""
    prompt: bool = False
    """Nobody holds back acknowledgements."""
    touched: set = field(default_factory=set)
    """Clients that hold back acknowledgements now."""


class Client:
    """A client of any protocol over its whole life. Subclasses open connections and speak."""

    def __init__(self, world: World, name: str):
        self.world = world
        self.ledger = world.ledger
        self.name = name
        self.link = None
        """The transport of the open connection; None between connections."""
        self.leaving = False
        self.logged_in = False
        self.closed = asyncio.Event()
        self.closed.set()
        self.answers: dict = {}
        """Futures of what was asked, by what the answer will carry."""
        self.final_words = ""
        """What the broker said at the end of a connection."""
        self.known = False
        """Whether the broker confirmed this client's session once; then it has to be present from now on."""
        self.doubtful = False
        """Whether a first CONNECT may have been carried out without an answer."""

    # What subclasses do.

    async def open(self) -> None:
        """Connects and takes up the session; raises Lost or OSError if that cannot be."""
        raise NotImplementedError

    def say_goodbye(self) -> None:
        """Writes what ends a connection in peace."""

    # What the scenario calls.

    async def close(self, abruptly: bool = False) -> None:
        """Ends the connection; the session stays."""
        link = self.link
        if link is None:
            return
        self.leaving = True
        if abruptly:
            link.abort()
        else:
            # It is over when the broker says so: before, it could take a next connection for a takeover of this one.
            self.say_goodbye()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self.closed.wait()
            link.close()
        await self.closed.wait()

    def drop(self) -> None:
        """Breaks the connection and does not wait."""
        if self.link:
            self.leaving = True
            self.link.abort()

    # What connections call.

    def opened(self, transport) -> None:
        self.link = transport
        self.leaving = self.logged_in = False
        self.final_words = ""
        self.closed.clear()

    def ended(self) -> None:
        """The connection is gone; whose fault was it?"""
        self.link = None
        self.forget_connection()
        for answer in self.answers.values():
            if not answer.done():
                answer.set_exception(Lost(self.final_words))
                answer.exception()
        self.answers.clear()
        self.closed.set()
        noteworthy = self.logged_in or self.final_words
        if noteworthy and not self.leaving and self.world.broker.up.is_set():
            # The process may have been killed by a power cut's errors, or have died: look once more, a little later.
            asyncio.get_running_loop().call_later(0.3, self._accuse, self.world.broker.starts, self.final_words)

    def _accuse(self, start: int, words: str) -> None:
        broker = self.world.broker
        if broker.up.is_set() and broker.starts == start and broker.process.poll() is None:
            self.ledger.blame("thrown out", f"{self.name} was disconnected by a running broker: {words or 'without a word'}")

    def forget_connection(self) -> None:
        """Drops what belongs to a connection only."""

    async def ask(self, key, write) -> object:
        """Sends with `write` and waits for the answer that is called `key`."""
        if self.link is None:
            raise Lost
        answer = asyncio.get_running_loop().create_future()
        self.answers[key] = answer
        write()
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            if self.world.broker.up.is_set():
                self.ledger.blame("no answer", f"{self.name} waited {PATIENCE} s for {key}")
            self.drop()
            raise Lost from None
        except asyncio.CancelledError:
            self.drop()
            raise

    def answered(self, key, value) -> bool:
        """An answer has come; False if nobody waits for it."""
        answer = self.answers.pop(key, None)
        if answer is None:
            return False
        if not answer.done():
            answer.set_result(value)
        return True

    def check_session(self, present: bool) -> bool:
        """Holds Session Present against what was promised. True if the session begins anew."""
        if present:
            if not (self.known or self.doubtful):
                self.ledger.blame("session out of nothing", f"{self.name} resumed a session that it never had")
            elif self.known:
                self.ledger.checks["sessions"] += 1
        elif self.known:
            self.ledger.blame("session lost", f"{self.name} has no session any more")
        self.known = True
        return not present
