"""Lifecycle events: exactly one `disconnected` for each `connected`, whatever happens to broker and function."""

import random
import signal
import threading

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


def test_kill_in_the_middle_of_delivery(serve, start_broker, tmp_path):
    """Clients come and go while a function is slow, fails and goes away, and the broker is killed again and again."""
    chance = random.Random(7)
    lock = threading.Lock()

    def function(_):
        with lock:
            fate = chance.random()
        return Raw(503) if fate < 0.2 else {"statusCode": 200}

    server = serve(f=function)
    configured = settings([webhook(server, "f", timeout="1s")], lifecycle="f")
    names = [f"d{number}" for number in range(20)]
    for round in range(5):
        broker = start_broker(data=tmp_path, **configured)
        clients = [device(broker, name) for name in names]
        for client in clients[:: round + 2]:
            client.disconnect()
        # The kill comes at some point of the delivery, in each round at another.
        until(lambda: len(server.calls) >= (round + 1) * 17, "some was delivered")
        kill(broker)
    start_broker(data=tmp_path, **configured)

    def all_paired():
        rows = told(server)
        return all([kind for kind, name, _, _ in rows if name == wanted] == ["connected", "disconnected"] * 5
                   for wanted in names)

    until(all_paired, "five comings and goings of each client", 30)
    for name in names:
        versions = [row[3] for row in told(server) if row[1] == name]
        assert versions[0::2] == versions[1::2] == sorted(set(versions)), versions


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
