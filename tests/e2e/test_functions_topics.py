"""Topic rules: messages of every protocol that go to functions, and what becomes of those that none takes."""

import json
import signal
import threading

import pytest

from support import json_client, mqtt
from support.functions import Failure, Raw, Server, lambda_target, settings, webhook
from support.waiting import until
from test_functions import ok, post, serve  # noqa: F401


def rule(name="r", filter="sensors/#", target="f", **more):
    return {"name": name, "filter": filter, "target": target} | more


def messages(server):
    return [call.event["data"] for call in server.of("TOPIC")]


def test_a_message_as_functions_get_it(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([lambda_target(server, "f")], topics=[rule()]))
    client = mqtt.Client.plain(broker.mqtt)
    client.login()
    props = {"content_type": "application/json", "response_topic": "back", "correlation_data": b"c",
             "user": [("a", "1")]}
    client.publish("sensors/1", b'{"t":20.5}', qos=1, props=props)
    event = server.next().event
    context = event.pop("requestContext")
    assert event == {
        "topic": "sensors/1", "dataType": "json", "data": {"t": 20.5}, "contentType": "application/json",
        "replyTo": "back", "correlationId": "c", "userProperties": [["a", "1"]], "qos": 1, "retain": False,
    }
    assert (context["eventType"], context["routeKey"]) == ("TOPIC", "r")
    client.publish("other", b"x", qos=1)
    client.publish("sensors/2", b"\xff", qos=1)
    assert server.next().event["dataType"] == "base64"


def test_messages_of_every_protocol(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([webhook(server, "f")], topics=[rule()]))
    post(broker, "/api/v1/publish?topic=sensors/http", "http", {"content-type": "text/plain"})
    device = mqtt.Client.plain(broker.mqtt, 4)
    device.login()
    device.publish("sensors/mqtt", b"mqtt")
    page = json_client.Client.open(broker.http)
    page.send("publish", topic="sensors/json", data="json")
    server.until_called(3, "TOPIC")
    assert sorted(messages(server)) == ["http", "json", "mqtt"]


def test_nothing_is_lost_while_the_function_is_down(serve, start_broker, tmp_path):
    server = serve(f=ok)
    configured = settings([webhook(server, "f")], topics=[rule()], breaker_failures=2)
    broker = start_broker(data=tmp_path, **configured)
    server.close()
    client = mqtt.Client.plain(broker.mqtt)
    client.login()
    for number in range(30):
        client.publish("sensors/1", str(number).encode(), qos=1)
    until(lambda: broker.metric("polycast_function_breaker_open", target="f") == 1, "the breaker opens")
    broker.signal(signal.SIGKILL)
    broker.process.wait(10)
    broker.stopped = True
    again = Server(server.port, f=ok)
    broker = start_broker(data=tmp_path, **configured)
    until(lambda: set(messages(again)) == set(range(30)), f"all come: {messages(again)}")
    assert broker.metric("polycast_function_dead_letters_total", target="f") == 0
    again.close()


def test_a_message_that_fails_is_tried_again_and_becomes_a_dead_letter(serve, start_broker, tmp_path):
    def function(event):
        if event["data"] == "poison":
            raise Failure("cannot")
        return {"statusCode": 200}

    server = serve(f=function)
    broker = start_broker(data=tmp_path, **settings([lambda_target(server, "f", attempts=4)], topics=[rule()]))
    watcher = mqtt.Client.plain(broker.mqtt)
    watcher.login()
    watcher.subscribe("$dead/functions", qos=1)
    for text in (b"poison", b"fine"):
        watcher.publish("sensors/1", text, qos=1)
    letter = json.loads(watcher.message().payload)
    assert (letter["target"], letter["event"]["data"], letter["kind"]) == ("f", "poison", "topic")
    assert "cannot" in letter["reason"]
    assert messages(server).count("poison") == 4 and messages(server).count("fine") == 1
    written = (tmp_path / "functions" / "dead-letters.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"]["data"] for line in written] == ["poison"]
    assert broker.metric("polycast_function_dead_letters_total", target="f") == 1
    assert broker.metric("polycast_function_retries_total", target="f") == 3


@pytest.mark.parametrize("answer", [Raw(503), Raw(429), {"statusCode": 500}, Raw(200, b"", {"X-Amz-Function-Error": "x"})])
def test_what_fails_once_comes_again(serve, start_broker, answer):
    answers = [answer, {"statusCode": 200}]
    server = serve(f=lambda _: answers.pop(0))
    broker = start_broker(**settings([lambda_target(server, "f")], topics=[rule()]))
    post(broker, "/api/v1/publish?topic=sensors/1&qos=1", "x", {"content-type": "text/plain"})
    calls = server.until_called(2, "TOPIC")
    first, second = (call.event["requestContext"]["requestId"] for call in calls)
    assert first == second, "an attempt has the name of the event"


def test_dead_letters_of_dead_letters_do_not_come_back(serve, start_broker):
    def fail(_):
        raise Failure("always")

    server = serve(f=fail)
    topics = [rule(filter="$dead/functions"), rule("s")]
    broker = start_broker(**settings([lambda_target(server, "f", attempts=1)], topics=topics))
    post(broker, "/api/v1/publish?topic=sensors/1&qos=1", "x", {"content-type": "text/plain"})
    until(lambda: broker.metric("polycast_function_dead_letters_total", target="f") == 2, "two letters")
    assert len(server.calls) == 2


def test_calls_of_a_rule_at_once_are_bounded(serve, start_broker):
    go, lock = threading.Event(), threading.Lock()
    running, most = [0], [0]

    def function(_):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        go.wait(10)
        with lock:
            running[0] -= 1
        return {"statusCode": 200}

    server = serve(f=function)
    broker = start_broker(**settings([webhook(server, "f")], topics=[rule(in_flight=3)]))
    client = mqtt.Client.plain(broker.mqtt)
    client.login()
    for _ in range(20):
        client.publish("sensors/1", b"x", qos=1)
    until(lambda: running[0] == 3, "three at once")
    go.set()
    server.until_called(20, "TOPIC")
    assert most[0] == 3


def test_with_qos_0_a_message_is_given_once(serve, start_broker):
    server = serve(f=lambda _: Raw(503))
    broker = start_broker(**settings([webhook(server, "f")], topics=[rule(qos=0)]))
    post(broker, "/api/v1/publish?topic=sensors/1&qos=1", "x", {"content-type": "text/plain"})
    until(lambda: broker.metric("polycast_function_dead_letters_total", target="f") == 1, "it is given up")
    assert len(server.calls) == 1


def test_functions_share_a_queue_with_others(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([webhook(server, "f")], topics=[rule(filter="$queue/jobs")]))
    client = mqtt.Client.plain(broker.mqtt)
    client.login()
    client.publish("$queue/jobs", b"a job", qos=1)
    assert server.next().event["data"] == "a job"


def test_a_rule_reads_its_topics_whatever_clients_may(serve, start_broker):
    server = serve(f=ok)
    more = {"access__unmatched": "deny", "access__rules": json.dumps([{"allow": ["publish"], "topics": ["sensors/#"]}])}
    broker = start_broker(**settings([webhook(server, "f")], topics=[rule()]), **more)
    client = mqtt.Client.plain(broker.mqtt)
    client.login()
    client.publish("sensors/1", b"x", qos=1)
    assert server.next().event["data"] == "x"


def test_what_is_kept_for_a_rule_goes_with_it(serve, start_broker, tmp_path):
    server = serve(f=ok)
    broker = start_broker(data=tmp_path, **settings([webhook(server, "f")], topics=[rule("old"), rule("new")]))
    sessions = lambda: json.loads(broker.fetch("/api/v1/sessions")[1])["sessions"]  # noqa: E731
    until(lambda: {row["clientId"] for row in sessions()} == {"$function/old", "$function/new"}, "both rules work")
    broker.stop()
    broker = start_broker(data=tmp_path, **settings([webhook(server, "f")], topics=[rule("new")]))
    until(lambda: {row["clientId"] for row in sessions()} == {"$function/new"}, "one is left")


def test_mistakes_are_named_at_the_start(tmp_path):
    from support import process
    import subprocess

    wrong = settings([{"name": "f", "url": "http://127.0.0.1:1"}], {"$connect": "g"}, [rule(filter="a/#/b")])
    environment = process.plain_environment()
    environment |= {f"POLYCAST_{key.upper()}": value for key, value in wrong.items()}
    done = subprocess.run([process.polycast(), "check-config"], env=environment, capture_output=True, text=True,
                          cwd=tmp_path, timeout=20)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert 'there is no target "g"' in said and "no topic filter" in said


