"""The run: cycles of start, load and kill, with everybody coming and going; and now and then a look at all that is owed."""

import asyncio
import signal
from dataclasses import dataclass, field

from .broker import BrokerFailed
from .cast import Cast
from .client import Lost, World
from .fresh import FreshProber
from .mqtt import stay
from .mqtt_publisher import MqttPublisher
from .power import Disk
from .retained import Keeper, Reader
from .wills import Wills

TICK = 0.01
FAR_BEHIND = 20_000
"""Messages that a receiver may be behind before the publishers pause."""
LONGEST_LOAD = 20.0
"""Seconds after which a broker is killed that acknowledges less than planned."""


@dataclass
class Plan:
    """How the cycles go."""

    cycles: int
    acks: int
    """Most acknowledgements in a cycle."""
    check_each: int
    patience: float
    """Seconds without any progress after which what has not come counts as lost."""
    number: signal.Signals | None
    """How the broker ends; None if it is to go on, which shows whether the clients are right."""
    stop_at_first: bool
    without: set[str] = field(default_factory=set)


class Scenario:
    """One run from the first start to the last look."""

    def __init__(self, world: World, cast: Cast, plan: Plan, disk: Disk | None):
        self.world = world
        self.cast = cast
        self.plan = plan
        self.disk = disk
        self.ending = asyncio.Event()
        self.gather = False
        """Whether all roving receivers stay, to take what is kept for them."""
        kinds = [kind for kind in ("mqtt3", "mqtt5") if kind not in plan.without]
        kinds += [kind for kind in ("stomp", "json") if kind in world.broker.protocols - plan.without]
        self.fresh = [] if "fresh" in plan.without else [FreshProber(world, kind) for kind in kinds]
        self.keepers = [] if "retained" in plan.without else [Keeper(world, kind) for kind in kinds]
        self.reader = Reader(world, self.keepers)
        self.wills = None if "wills" in plan.without else Wills(world)
        self.verifier = MqttPublisher(world, "verifier", 5, expiry=0)
        self.tasks: list[asyncio.Task] = []
        self.failure = ""
        self.cycles_done = 0

    async def run(self) -> None:
        """Everything. What was broken is in the ledger."""
        try:
            await self._set_up()
            for number in range(1, self.plan.cycles + 1):
                self.world.ledger.cycle = number
                await self._cycle()
                self.cycles_done = number
                last = number == self.plan.cycles
                if last or number % self.plan.check_each == 0:
                    await self._take_stock(last)
                    self._tell()
                    if self.plan.stop_at_first and self.world.ledger.violations:
                        break
        except BrokerFailed as failure:
            self.failure = str(failure)
            self.world.ledger.blame("broker failed", self.failure)
        finally:
            await self._tear_down()

    def _tell(self) -> None:
        ledger = self.world.ledger
        violations = ledger.violations.total()
        print(f"cycle {ledger.cycle}: {ledger.acked} acknowledged, {violations} violations", flush=True)

    # Beginning and end.

    async def _set_up(self) -> None:
        """All subscriptions are there before the first message."""
        broker = self.world.broker
        broker.spawn()
        await broker.ready()
        for client in [*self.cast.receivers, *([self.wills.watcher] if self.wills else [])]:
            await client.open()
        if self.cast.paho:
            self.cast.paho.start()
            while not self.cast.paho.subscribed:
                await asyncio.sleep(0.01)
        always = [*self.cast.publishers, *self.cast.live, *([self.wills.watcher] if self.wills else [])]
        self.tasks = [asyncio.create_task(stay(client, self.ending)) for client in always]
        self.tasks += [asyncio.create_task(self._rove(client)) for client in self.cast.roving]
        self.tasks.append(asyncio.create_task(self._tick()))

    async def _tear_down(self) -> None:
        self.ending.set()
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        broker = self.world.broker
        broker.expect_end()
        if broker.process and broker.process.poll() is None:
            broker.process.kill()
            broker.process.wait()
        if self.cast.paho:
            await asyncio.to_thread(self.cast.paho.stop)
        for result in results:
            if isinstance(result, BrokerFailed):
                if not self.failure:
                    self.failure = str(result)
                    self.world.ledger.blame("broker failed", self.failure)
            elif isinstance(result, Exception):
                raise result

    # Things that go on all the time.

    async def _tick(self) -> None:
        """Small regular duties: pauses of publishers, acknowledgements that were held back, the pair of threads."""
        world, cast = self.world, self.cast
        count = 0
        while True:
            await asyncio.sleep(TICK)
            count += 1
            world.broker.look()
            if cast.paho:
                cast.paho.tick()
            behind = max(inbox.behind() for inbox in world.ledger.inboxes.values())
            paused, world.paused = world.paused, behind > FAR_BEHIND or (world.paused and behind > FAR_BEHIND // 2)
            if paused and not world.paused:
                for publisher in cast.publishers:
                    publisher.poke()
            self._release(count)

    def _release(self, count: int) -> None:
        world = self.world
        for client in list(world.touched):
            if world.prompt or world.rng.random() < 0.3:
                world.touched.discard(client)
                client.release()
                client.flush()
        if count % 20 == 0:
            for client in self.cast.receivers:
                client.holds = not world.prompt and world.rng.random() < 0.4

    async def _rove(self, client) -> None:
        """Comes and goes, in peace or not, whether the broker is there or not."""
        world, rng = self.world, self.world.rng
        while not self.ending.is_set():
            await world.broker.up.wait()
            try:
                await client.open()
            except (Lost, OSError, TimeoutError):
                await asyncio.sleep(0.01)
                continue
            until = asyncio.get_running_loop().time() + rng.random() * 1.5
            while client.link and (self.gather or asyncio.get_running_loop().time() < until):
                await asyncio.sleep(0.02)
            if client.link:
                await client.close(abruptly=rng.random() < 0.5)
            away = asyncio.get_running_loop().time() + rng.random() ** 2 * 4
            while not self.gather and asyncio.get_running_loop().time() < away:
                await asyncio.sleep(0.02)

    # A cycle.

    async def _cycle(self) -> None:
        """The broker runs, does some work and is killed at a random moment; then it is started again."""
        rng, ledger = self.world.rng, self.world.ledger
        probes = self._begin_probes()
        kind = rng.choices(["load", "drain", "soon"], [6, 3, 1])[0]
        if kind == "load":
            await self._until(ledger.acked + rng.randint(self.plan.acks // 20, self.plan.acks), LONGEST_LOAD)
        elif kind == "soon":
            await asyncio.sleep(rng.random() * 0.2)
        else:
            await self._drain_a_while(rng.random() * 1.2)
        if self.plan.number is None:
            await self._go_on(probes)
            return
        ledger.notes[f"kills: {kind}"] += 1
        await self._crash(probes)
        await self._restart()

    async def _go_on(self, probes: list[asyncio.Task]) -> None:
        """No crash: the connections of all who would have noticed it break."""
        for task in probes:
            task.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        leaving = [prober.client for prober in self.fresh] + [keeper.client for keeper in self.keepers]
        leaving += list(self.wills.living.values()) if self.wills else []
        for client in [*leaving, *self.cast.publishers, *self.cast.live]:
            await client.close(abruptly=True)
        self._crashed()

    async def _until(self, acks: int, bound: float) -> None:
        deadline = asyncio.get_running_loop().time() + bound
        while self.world.ledger.acked < acks and asyncio.get_running_loop().time() < deadline:
            self._watch_tasks()
            await asyncio.sleep(0.002)

    async def _drain_a_while(self, seconds: float) -> None:
        """All come and take what was kept; the kill falls into it."""
        self.gather = True
        await self._until(1 << 60, 0.05 + seconds)
        self.gather = False

    def _watch_tasks(self) -> None:
        """What fails in the background ends the run."""
        for task in self.tasks:
            if task.done() and not task.cancelled() and task.exception():
                raise task.exception()

    def _begin_probes(self) -> list[asyncio.Task]:
        return [asyncio.create_task(self._probe(probe)) for probe in (self._fresh_and_retained, self._wills) if probe]

    async def _probe(self, probe) -> None:
        try:
            await probe()
        except (Lost, OSError, TimeoutError):
            pass

    async def _fresh_and_retained(self) -> None:
        """First what the last crash has left, then new work for the next one."""
        await self.verifier.open()
        if self.reader.to_prove and self.keepers:
            await self.reader.prove()
        jobs = [asyncio.create_task(self._probe(keeper.run)) for keeper in self.keepers]
        jobs += [asyncio.create_task(self._probe(lambda prober=prober: prober.cycle(self.verifier))) for prober in self.fresh]
        try:
            await asyncio.gather(*jobs)
        finally:
            for job in jobs:
                job.cancel()

    async def _wills(self) -> None:
        if self.wills:
            await self.wills.cycle()

    async def _crash(self, probes: list[asyncio.Task]) -> None:
        broker = self.world.broker
        broker.look()
        self._strike(self.plan.number)
        await self._end_probes(probes)

    def _strike(self, number: signal.Signals) -> None:
        """Ends the broker, if asked for together with the power of its disk."""
        broker = self.world.broker
        if not self.disk:
            broker.end(number)
            return
        broker.expect_end()
        # A machine without power acknowledges nothing; a broker that runs on would, because the ioctl lets a flush that
        # it interrupts return without an error now and then.
        broker.freeze()
        self.disk.cut()
        broker.end(signal.SIGKILL)
        self.disk.come_back()

    async def _end_probes(self, probes: list[asyncio.Task]) -> None:
        """The probes notice by themselves: their connections are closed."""
        _, late = await asyncio.wait(probes, timeout=5)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in probes:
            if not task.cancelled() and task.exception():
                raise task.exception()
        self._crashed()

    def _crashed(self) -> None:
        """From here on everything has to be proved again."""
        for prober in self.fresh:
            prober.crashed()
        self.reader.crashed()
        if self.wills:
            self.wills.crashed()

    async def _restart(self) -> None:
        """Starts the broker; sometimes it is killed while it recovers, once or more."""
        broker, rng = self.world.broker, self.world.rng
        broker.spawn()
        while self.plan.number == signal.SIGKILL and rng.random() < 0.25:
            await asyncio.sleep(rng.random() ** 2 * 0.4)
            self._strike(signal.SIGKILL)
            self.world.ledger.notes["kills: recovery"] += 1
            broker.spawn()
        await broker.ready()

    # Taking stock.

    async def _take_stock(self, last: bool) -> None:
        """Publishers finish, everybody takes all that is owed, and the ledger is closed so far."""
        world = self.world
        world.finishing = world.prompt = self.gather = True
        for client in self.cast.receivers:
            client.holds = False
        if self.wills:
            await self.wills.finish()
        await self._settle()
        await self._check_probes()
        ledger = world.ledger
        for inbox in ledger.inboxes.values():
            inbox.check()
        for client in self.cast.receivers:
            due = getattr(client, "due_again", {})
            for identifier, message in due.items():
                ledger.blame("never sent again", f"{client.name}: {message} under {identifier}")
            due.clear()
        unfinished = sum(stream.sent - stream.acked for stream in ledger.streams.values())
        if unfinished:
            ledger.blame("never acknowledged", f"{unfinished} messages that were sent again on every connection")
        if not last:
            world.finishing = world.prompt = self.gather = False
            for publisher in self.cast.publishers:
                publisher.poke()

    async def _settle(self) -> None:
        """Waits until all is delivered, or nothing moves any more."""
        ledger = self.world.ledger
        loop = asyncio.get_running_loop()
        seen, since = -1, loop.time()
        while loop.time() - since < self.plan.patience:
            self._watch_tasks()
            if self._all_done():
                # What comes too often may come last.
                await asyncio.sleep(0.3)
                return
            now = ledger.received() + ledger.acked + ledger.checks["wills"]
            if now != seen:
                seen, since = now, loop.time()
            await asyncio.sleep(0.02)

    def _all_done(self) -> bool:
        ledger, cast = self.world.ledger, self.cast
        return (
            all(publisher.idle() for publisher in cast.publishers)
            and all(inbox.complete() for inbox in ledger.inboxes.values())
            and all(client.idle() for client in cast.receivers)
            and (cast.paho is None or cast.paho.idle())
            and (self.wills is None or not self.wills.missing())
        )

    async def _check_probes(self) -> None:
        """What the last crash has left of subscriptions, retained messages and wills."""
        try:
            await self.verifier.open()
            if self.reader.to_prove and self.keepers:
                await self.reader.prove()
            for prober in self.fresh:
                if prober.to_prove:
                    await prober.mark(self.verifier)
                    await prober.prove()
                await prober.client.close()
            if self.wills:
                self.wills.check()
                await self.wills.clear()
        except (Lost, OSError, TimeoutError) as error:
            self.world.broker.look()
            self.world.ledger.blame("protocol", f"a probe lost its connection at the end: {error!r}")
