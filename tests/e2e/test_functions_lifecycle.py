"""Lifecycle events: exactly one `disconnected` for each `connected`, whatever happens to broker and function."""

import random
import signal
import threading

import pytest

from support import json_client, mqtt
from support.functions import Raw, Server, lambda_target, settings, webhook
from support.waiting import until
from test_functions import ok, serve  # noqa: F401


def told(server):
    """Events in the order of their coming: kind, client, reason, version; each attempt once."""
    rows = {}
    for call in list(server.calls):
        event = call.event
        key = (event["eventType"], event["clientId"], event.get("disconnectReason"), event["versionNumber"])
        rows.setdefault(key)
    return list(rows)


def kinds(server, client):
    return [(kind, reason) for kind, name, reason, _ in told(server) if name == client]


def kill(broker):
    broker.signal(signal.SIGKILL)
    broker.process.wait(10)
    broker.stopped = True


def device(broker, name, **options):
    client = mqtt.Client.plain(broker.mqtt)
    client.login(name, **options)
    return client


def test_clients_come_and_go(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([lambda_target(server, "f")], lifecycle="f"))
    client = device(broker, "d1", username="ann")
    connected = server.next("connected").event
    assert connected["clientId"] == "d1" and connected["protocol"] == "mqtt 5"
    assert (connected["transport"], connected["ipAddress"]) == ("tcp", "127.0.0.1")
    client.disconnect()
    gone = server.next("disconnected").event
    assert (gone["disconnectReason"], gone["clientInitiatedDisconnect"]) == ("normal", True)
    assert gone["versionNumber"] == connected["versionNumber"]
    assert gone["connectionId"] == connected["connectionId"]
    client = device(broker, "d1")
    client.drop()
    assert server.next("connected").event["versionNumber"] > connected["versionNumber"]
    assert server.next("disconnected").event["clientInitiatedDisconnect"] is False
    page = json_client.Client.open(broker.http)
    assert server.next("connected").event["protocol"].startswith("json")
    page.close()
    server.next("disconnected")


def test_a_takeover_ends_the_one_before(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([webhook(server, "f")], lifecycle="f"))
    first = device(broker, "d")
    second = device(broker, "d")
    first.expect_closed()
    second.disconnect()
    until(lambda: len(told(server)) == 4, "two came and went")
    assert kinds(server, "d") == [
        ("connected", None), ("disconnected", "taken_over"), ("connected", None), ("disconnected", "normal")]
    versions = [row[3] for row in told(server)]
    assert versions[0] == versions[1] < versions[2] == versions[3]


def test_flapping_within_the_grace_is_quiet(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([webhook(server, "f")], lifecycle="f", reconnect_grace="1h"))
    for _ in range(5):
        device(broker, "d").drop()
    client = device(broker, "other")
    until(lambda: kinds(server, "other"), "the other is told of")
    assert kinds(server, "d") == [("connected", None)]
    client.disconnect()


def test_after_a_grace_the_end_is_told(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([webhook(server, "f")], lifecycle="f", reconnect_grace="50ms"))
    device(broker, "d").disconnect()
    assert server.next("connected")
    assert server.next("disconnected").event["disconnectReason"] == "normal"


def test_a_crash_is_told_by_the_next_run(serve, start_broker, tmp_path):
    server = serve(f=ok)
    configured = settings([webhook(server, "f")], lifecycle="f")
    broker = start_broker(data=tmp_path, **configured)
    clients = [device(broker, f"d{number}") for number in range(10)]
    clients[0].disconnect()
    until(lambda: len(told(server)) == 11, "ten came, one went")
    kill(broker)
    broker = start_broker(data=tmp_path, **configured)
    until(lambda: len(told(server)) == 20, "all went")
    assert kinds(server, "d0") == [("connected", None), ("disconnected", "normal")]
    for number in range(1, 10):
        assert kinds(server, f"d{number}") == [("connected", None), ("disconnected", "broker-restart")]
    broker.stop()
    broker = start_broker(data=tmp_path, **configured)
    client = device(broker, "d1")
    until(lambda: kinds(server, "d1")[-1] == ("connected", None), "it is back")
    versions = [row[3] for row in told(server) if row[1] == "d1"]
    assert versions[0] == versions[1] < versions[2]
    client.disconnect()


def test_an_orderly_stop_is_told_too(serve, start_broker, tmp_path):
    server = serve(f=ok)
    configured = settings([webhook(server, "f")], lifecycle="f")
    broker = start_broker(data=tmp_path, **configured)
    client = device(broker, "d")
    server.next("connected")
    broker.stop()
    start_broker(data=tmp_path, **configured)
    until(lambda: len(kinds(server, "d")) == 2, "its end is told, now or by the next run")
    assert kinds(server, "d")[1] == ("disconnected", "shutdown")
    client.close()


class Coming:
    """Clients that come one after the other, some of whom go again, until the broker is killed under them."""

    def __init__(self, broker, names, seed):
        self.broker, self.names, self.chance = broker, names, random.Random(seed)
        self.let_in, self.clients = [], []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            for name in self.names:
                self.clients.append(device(self.broker, name))
                self.let_in.append(name)
                if self.chance.random() < 0.3:
                    self.clients.pop(self.chance.randrange(len(self.clients))).disconnect()
        except (OSError, AssertionError, mqtt.Closed):
            pass  # The broker is not there any more.


@pytest.mark.timeout(180)
@pytest.mark.parametrize("grace", ["0s", "100ms"])
@pytest.mark.parametrize("kind", [webhook, lambda_target])
def test_kill_in_the_middle_of_delivery(serve, start_broker, tmp_path, kind, grace):
    """Clients come and go while a function fails now and then, and the broker is killed again and again: each time when
    some other number of events has been delivered, with clients on their way in and events on their way out."""
    chance = random.Random(grace + kind.__name__)
    lock = threading.Lock()

    def function(_):
        with lock:
            fate = chance.random()
        return Raw(503) if fate < 0.2 else {"statusCode": 200}

    server = serve(f=function)
    configured = settings([kind(server, "f", timeout="1s")], lifecycle="f", reconnect_grace=grace)
    names = [f"d{number}" for number in range(24)]
    let_in = {name: 0 for name in names}
    rounds = 12
    for round in range(rounds):
        before = len(server.calls)
        broker = start_broker(data=tmp_path, **configured)
        coming = [Coming(broker, names[at::3], round * 3 + at) for at in range(3)]
        # With a grace, who is back in time is not told of: then their number is what is waited for.
        deliveries, arrivals = chance.randrange(20), chance.randrange(24)
        until(lambda: (grace != "0s" or len(server.calls) - before >= deliveries)
              and sum(len(one.let_in) for one in coming) >= arrivals, "some came, some was delivered")
        kill(broker)
        for one in coming:
            one.thread.join(20)
            for name in one.let_in:
                let_in[name] += 1
    start_broker(data=tmp_path, **configured)

    def sequences():
        rows = told(server)
        return {name: [(kind, version) for kind, of, _, version in rows if of == name] for name in names}

    def all_paired():
        return all(len(rows) % 2 == 0 and (grace != "0s" or len(rows) >= 2 * let_in[name])
                   for name, rows in sequences().items())

    until(all_paired, "an end of each coming", 30)
    assert sum(let_in.values()) > rounds
    for name, rows in sequences().items():
        assert [kind for kind, _ in rows] == ["connected", "disconnected"] * (len(rows) // 2), (name, rows)
        versions = [version for _, version in rows]
        assert versions[0::2] == versions[1::2] == sorted(set(versions)), (name, rows)
        assert len(rows) // 2 <= rounds


def test_a_function_that_was_down_is_told_later(serve, start_broker, tmp_path):
    server = serve(f=ok)
    configured = settings([webhook(server, "f")], lifecycle="f", breaker_failures=2)
    broker = start_broker(data=tmp_path, **configured)
    server.close()
    for number in range(100):
        device(broker, f"d{number}").disconnect()
    assert broker.metric("polycast_function_backlog_bytes", target="f") > 0
    kill(broker)
    again = Server(server.port, f=ok)
    broker = start_broker(data=tmp_path, **configured)
    until(lambda: len(told(again)) == 200, "all is told")
    for number in range(100):
        assert [kind for kind, _ in kinds(again, f"d{number}")] == ["connected", "disconnected"]
    until(lambda: broker.metric("polycast_function_backlog_bytes", target="f") == 0, "nothing waits")
    again.close()


def test_a_full_backlog_is_counted(serve, start_broker):
    server = serve(f=ok)
    server.close()
    broker = start_broker(**settings([webhook(server, "f")], lifecycle="f", backlog_size="4KiB"))
    for number in range(20):
        device(broker, f"d{number}").disconnect()
    assert broker.metric("polycast_function_untold_total", target="f") > 0
