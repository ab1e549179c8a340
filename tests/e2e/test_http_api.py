"""The HTTP API under /api/v1, with httpx."""

import base64
import datetime
import hashlib
import json
import os
import re
import signal
import socket
import time

import httpx
import pytest

from support import addresses, json_client, mqtt, process, stomp
from support.waiting import unique, until


@pytest.fixture
def api(broker):
    with httpx.Client(base_url=broker.http_url("/api/v1"), timeout=20) as client:
        yield client


@pytest.fixture
def listener(broker):
    """A JSON client of the shared broker."""
    client = json_client.Client.open(broker.http)
    yield client
    client.close()


def api_of(broker, **options):
    return httpx.Client(base_url=broker.http_url("/api/v1"), timeout=20, **options)


def problem(answer, status: int, code: str | None = None) -> dict:
    """Checks that an answer is a problem, and returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status and body["title"] and body["detail"], body
    assert code is None or body["code"] == code, body
    return body


# Publishing


def test_publish_reaches_every_protocol_with_all_that_it_carries(broker, api, client, listener):
    topic = unique("http/all")
    device = client()
    device.subscribe(topic, qos=1)
    listener.request("subscribe", topic=topic, qos=1)
    answer = api.post(
        "/publish",
        json={
            "topic": topic,
            "data": {"temperature": 21.5},
            "qos": 1,
            "headers": {"unit": "C", "twice": ["a", "b"]},
            "replyTo": "answers",
            "correlationId": "c-1",
            "expiresIn": 60,
        },
    )
    assert (answer.status_code, answer.json()) == (200, {"receivers": 2})
    packet = device.message()
    assert json.loads(packet.payload) == {"temperature": 21.5}
    assert packet.qos == 1
    frame = listener.message()
    assert frame["data"] == {"temperature": 21.5}
    assert frame["headers"] == {"unit": "C", "twice": ["a", "b"]}
    assert (frame["replyTo"], frame["correlationId"], frame["contentType"]) == ("answers", "c-1", "application/json")
    assert 0 < frame["expiresIn"] <= 60


@pytest.mark.parametrize(
    "message, payload",
    [
        ({"data": "text"}, b"text"),
        ({"data": [1, 2]}, b"[1, 2]"),
        ({"data": base64.b64encode(b"\x00\xff").decode(), "dataType": "base64"}, b"\x00\xff"),
        ({"data": ""}, b""),
    ],
    ids=["text", "json", "base64", "empty"],
)
def test_payloads(api, client, message, payload):
    topic = unique("http/payload")
    device = client()
    device.subscribe(topic)
    assert api.post("/publish", json={"topic": topic, **message}).status_code == 200
    received = device.message().payload
    assert received == payload or json.loads(received) == json.loads(payload)


def test_a_raw_body_is_the_payload(api, client):
    topic = unique("http/raw")
    device = client()
    device.subscribe(topic, qos=1)
    answer = api.post(
        "/publish",
        params={"topic": topic, "qos": 0, "header": ["a:1", "b: 2"], "replyTo": "r"},
        content=b"\x00\x01\xfe",
        headers={"content-type": "image/png"},
    )
    assert answer.json() == {"receivers": 1}
    packet = device.message()
    assert (packet.payload, packet.qos) == (b"\x00\x01\xfe", 0)
    assert packet.properties["content_type"] == "image/png"
    assert packet.properties["response_topic"] == "r"
    assert [tuple(pair) for pair in packet.properties["user"]] == [("a", "1"), ("b", "2")]


def test_202_when_nobody_was_there(api):
    answer = api.post("/publish", json={"topic": unique("http/nobody"), "data": 1})
    assert (answer.status_code, answer.json()) == (202, {"receivers": 0})


def test_groups_users_connections_and_everyone(broker, api, listener):
    group = unique("g")
    listener.request("join", group=group)
    assert api.post("/publish", json={"group": group, "data": 1}).json() == {"receivers": 1}
    assert listener.message()["group"] == group
    connection = listener.connected["connectionId"]
    assert api.post("/publish", json={"connectionId": connection, "data": {"to": "you"}}).json() == {"receivers": 1}
    frame = listener.message()
    assert (frame["topic"], frame["data"]) == (f"$connection/{connection}", {"to": "you"})
    assert api.post("/publish", json={"broadcast": True, "data": "all"}).json()["receivers"] >= 1
    assert listener.await_frame(lambda frame: frame.get("broadcast"))["data"] == "all"
    assert api.post("/publish", params={"group": group}, content="raw").json() == {"receivers": 1}
    assert listener.message()["data"] == "raw"
    problem(api.post("/publish", json={"connectionId": "000000000000-99", "data": 1}), 410, "gone")


def test_a_connection_of_any_protocol_is_reached(broker, api):
    device = mqtt.Client.plain(broker.mqtt)
    device.login(unique("device"))
    page = stomp.Client.open(broker.stomp)
    rows = {row["protocol"]: row for row in all_rows(api, "clients")}
    for protocol in ("mqtt 5", "stomp 1.2"):
        answer = api.post("/publish", json={"connectionId": rows[protocol]["connectionId"], "data": "hi"})
        assert answer.json() == {"receivers": 1}
    frame = page.receive()
    assert frame.command == "MESSAGE"
    assert frame["subscription"].startswith("$connection/") and frame.body == b"hi"
    device.close()
    page.close()


def test_many_messages_have_a_result_each(api, client):
    topic = unique("http/many")
    device = client()
    device.subscribe(topic, qos=1)
    answer = api.post(
        "/publish/batch",
        json={
            "messages": [
                {"topic": topic, "data": 0},
                {"topic": "a/#", "data": 1},
                {"topic": unique("http/nobody"), "data": 2},
                {"data": 3},
                {"topic": topic, "data": 4},
            ]
        },
    )
    body = answer.json()
    assert answer.status_code == 200
    assert (body["accepted"], body["failed"]) == (3, 2)
    assert [result["status"] for result in body["results"]] == [200, 400, 202, 400, 200]
    assert body["results"][1]["error"]["code"] == "topicInvalid"
    assert [packet.payload for packet in device.messages(2)] == [b"0", b"4"]


def test_the_same_key_is_accepted_once_and_answered_alike(api, client):
    topic = unique("http/once")
    device = client()
    device.subscribe(topic, qos=1)
    key = unique("key")
    for _ in range(3):
        answer = api.post("/publish", json={"topic": topic, "data": "x"}, headers={"idempotency-key": key})
        assert (answer.status_code, answer.json()) == (200, {"receivers": 1})
    for _ in range(2):
        batch = {"messages": [{"topic": topic, "data": n, "idempotencyKey": f"{key}-{n}"} for n in range(2)]}
        assert api.post("/publish/batch", json=batch).json()["accepted"] == 2
    for _ in range(2):
        batch = {"messages": [{"topic": topic, "data": n} for n in range(2, 4)]}
        api.post("/publish/batch", json=batch, headers={"idempotency-key": f"{key}-many"})
    assert [packet.payload for packet in device.messages(5)] == [b"x", b"0", b"1", b"2", b"3"]
    device.nothing_before(topic)


def test_keys_and_messages_survive_kill_9(start_broker, tmp_path):
    broker = start_broker(data=tmp_path)
    device = mqtt.Client.plain(broker.mqtt)
    device.login("kept", clean=False, props={"session_expiry": 3600})
    device.subscribe("kept/t", qos=1)
    device.drop()
    with api_of(broker) as api:
        until(lambda: not api.get("/clients/kept").json()["connected"])
        for n in range(10):
            answer = api.post("/publish", json={"topic": "kept/t", "data": n, "idempotencyKey": f"k{n}"})
            assert answer.json() == {"receivers": 1}
    broker.process.send_signal(signal.SIGKILL)
    broker.process.wait()
    broker.stopped = True
    broker = start_broker(data=tmp_path)
    with api_of(broker) as api:
        again = api.post("/publish", json={"topic": "kept/t", "data": 0, "idempotencyKey": "k0"})
        assert again.json() == {"receivers": 1}
    device = mqtt.Client.plain(broker.mqtt)
    device.login("kept", clean=False, props={"session_expiry": 3600})
    assert [packet.payload for packet in device.messages(10)] == [str(n).encode() for n in range(10)]
    device.nothing_before("kept/t")
    device.close()


@pytest.mark.parametrize(
    "body, code",
    [
        ("{", "malformed"),
        ("[]", "invalidRequest"),
        ("", "invalidRequest"),
        ("{}", "invalidFrame"),
        ('{"topic":"a","data":1,"qos":2}', "invalidFrame"),
        ('{"topic":"a/+","data":1}', "topicInvalid"),
        ('{"topic":"$SYS/x","data":1}', None),
        ('{"topic":"a","group":"g","data":1}', None),
        ('{"topic":"a","broadcast":true,"data":1}', "invalidFrame"),
        ('{"connectionId":"x","retain":true,"data":1}', "invalidRequest"),
        ('{"topic":"a","topic":"b","data":1}', "invalidFrame"),
    ],
)
def test_what_is_wrong_is_named(api, body, code):
    answer = api.post("/publish", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 403)
    problem(answer, answer.status_code, code)


def test_media_types_sizes_and_keys(api):
    answer = api.post("/publish", content="hello", headers={"content-type": "text/plain"})
    problem(answer, 415, "unsupportedType")
    answer = api.post("/publish", params={"topic": "a"}, content=b"x" * (2 * 1024 * 1024))
    problem(answer, 413, "tooLarge")
    answer = api.post("/publish", params={"topic": "a"}, content=b"x" * (9 * 1024 * 1024))
    problem(answer, 413, "tooLarge")
    many = {"messages": [{"topic": "a", "data": 1}] * 1001}
    problem(api.post("/publish/batch", json=many), 413, "tooLarge")
    answer = api.post("/publish", json={"topic": "a", "data": 1}, headers={"idempotency-key": "x" * 257})
    problem(answer, 400)


def test_a_body_of_unknown_length_is_bounded_too(api):
    topic = unique("http/chunks")
    chunks = lambda count: iter([b"x" * 65536] * count)
    assert api.post("/publish", params={"topic": topic}, content=chunks(4)).status_code == 202
    problem(api.post("/publish", params={"topic": topic}, content=chunks(200)), 413, "tooLarge")


# Retained messages


def test_retained_messages(api, client):
    base = unique("http/retained")
    before = time.time()
    for name in ("a", "b", "c"):
        api.post("/publish", json={"topic": f"{base}/{name}", "data": {"n": name}, "retain": True})
    answer = api.get(f"/retained/{base}/a").json()
    moment = datetime.datetime.fromisoformat(answer["retainedAt"]).timestamp()
    assert before - 1 <= moment <= time.time() + 1
    assert (answer["topic"], answer["data"], answer["qos"]) == (f"{base}/a", {"n": "a"}, 1)
    raw = api.get(f"/retained/{base}/a", params={"raw": "true"})
    assert raw.headers["content-type"] == "application/json" and raw.json() == {"n": "a"}
    encoded = base.replace("/", "%2F")
    assert api.get(f"/retained/{encoded}%2Fb").json()["data"] == {"n": "b"}
    rows = all_rows(api, "retained", filter=f"{base}/#", limit=2)
    assert [row["topic"] for row in rows] == [f"{base}/{name}" for name in "abc"]
    moments = [row["retainedAt"] for row in rows]
    assert moments == sorted(moments) and moments[0] == answer["retainedAt"]
    digits = b"[12345678901234567890.123456789]"
    kind = {"content-type": "application/json"}
    api.post("/publish", params={"topic": f"{base}/n", "retain": "true"}, content=digits, headers=kind)
    assert digits in api.get(f"/retained/{base}/n").content
    device = client()
    device.subscribe(f"{base}/a", qos=1)
    assert device.message().retain
    assert api.delete(f"/retained/{base}/a").status_code == 204
    problem(api.get(f"/retained/{base}/a"), 404, "notFound")
    problem(api.delete(f"/retained/{base}/a"), 404, "notFound")
    device.nothing_before(f"{base}/a")


# Clients


def all_rows(api, name: str, **query) -> list[dict]:
    """All rows of a list, page by page."""
    rows, cursor = [], None
    while True:
        answer = api.get(f"/{name}", params=query | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        rows += body[name]
        cursor = body["cursor"]
        if cursor is None:
            return rows


def test_lists_go_page_by_page(start_broker):
    broker = start_broker()
    devices = []
    for n in range(25):
        device = mqtt.Client.plain(broker.mqtt)
        device.login(f"d{n:02}")
        devices.append(device)
    with api_of(broker) as api:
        rows = all_rows(api, "clients", limit=7)
        assert [row["clientId"] for row in rows] == [f"d{n:02}" for n in range(25)]
        assert len({row["connectionId"] for row in rows}) == 25
        assert {row["transport"] for row in rows} == {"tcp"}
        assert len(all_rows(api, "clients", clientIdPrefix="d1", limit=3)) == 10
        assert all_rows(api, "clients", protocol="stomp") == []
        assert len(all_rows(api, "clients", protocol="mqtt")) == 25
        problem(api.get("/clients", params={"cursor": "???"}), 400)
        problem(api.get("/clients", params={"limit": 0}), 400)
    for device in devices:
        device.close()


def test_a_row_says_who_it_is(broker, api, listener):
    row = api.get(f"/connections/{listener.connected['connectionId']}").json()
    assert row["clientId"] == listener.connected["clientId"]
    assert (row["protocol"].split()[0], row["transport"], row["connected"]) == ("json", "ws", True)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["connectedAt"])
    assert row["lastActiveAt"] >= row["connectedAt"]
    assert row["address"].startswith("127.0.0.1:")
    assert api.get(f"/clients/{row['clientId']}").json()["connectionId"] == row["connectionId"]


def test_kicking(broker, api):
    device = mqtt.Client.plain(broker.mqtt)
    name = unique("kick")
    device.login(name, clean=False, props={"session_expiry": 60})
    assert api.delete(f"/clients/{name}").status_code == 204
    last = device.expect_closed()
    assert last[-1].reason == 0x98, last
    row = api.get(f"/clients/{name}").json()
    assert (row["connected"], row["connectionId"], row["durable"]) == (False, None, True)
    assert name in [row["clientId"] for row in all_rows(api, "sessions", connected="false")]
    problem(api.delete(f"/clients/{name}"), 404)
    assert api.delete(f"/sessions/{name}").status_code == 204
    problem(api.get(f"/clients/{name}"), 404, "notFound")
    page = json_client.Client.open(broker.http)
    connection = page.connected["connectionId"]
    assert api.delete(f"/connections/{connection}").status_code == 204
    page.expect_closed()
    problem(api.get(f"/connections/{connection}"), 410, "gone")
    page.close()


def test_subscribing_and_groups_in_the_place_of_a_client(broker, api, client):
    device = mqtt.Client.plain(broker.mqtt)
    name, topic, group = unique("placed"), unique("http/placed"), unique("group")
    device.login(name)
    answer = api.post(f"/clients/{name}/subscriptions", json={"topics": [f"{topic}/+", f"$share/s/{topic}/x"], "qos": 1})
    assert [result["qos"] for result in answer.json()["results"]] == [1, 1]
    assert api.put(f"/clients/{name}/groups/{group}").status_code == 204
    rows = api.get(f"/clients/{name}/subscriptions", params={"limit": 2}).json()
    assert [row["topic"] for row in rows["subscriptions"]] == [f"{topic}/+", f"$share/s/{topic}/x"]
    rest = api.get(f"/clients/{name}/subscriptions", params={"cursor": rows["cursor"]}).json()
    assert [row["topic"] for row in rest["subscriptions"]] == [f"$group/{group}"]
    assert {"s"} == {row["share"] for row in rows["subscriptions"] if row["share"]}
    assert name in {row["clientId"] for row in all_rows(api, "subscriptions", limit=2) if row["topic"] == f"{topic}/+"}
    assert [row["clientId"] for row in api.get(f"/groups/{group}/members").json()["members"]] == [name]
    assert api.post("/publish", json={"topic": f"{topic}/a", "data": 1}).json() == {"receivers": 1}
    assert device.message().topic == f"{topic}/a"
    assert api.post("/publish", json={"group": group, "data": 2}).json() == {"receivers": 1}
    assert device.message().topic == f"$group/{group}"
    about = api.get(f"/topics/{topic}/x").json()
    assert about["subscribers"] == 1 and about["shared"] == [{"name": f"$share/s/{topic}/x", "members": 1, "waiting": 0}]
    assert api.delete(f"/clients/{name}/groups/{group}").status_code == 204
    problem(api.delete(f"/clients/{name}/groups/{group}"), 404)
    gone = api.delete(f"/clients/{name}/subscriptions", params={"topic": [f"{topic}/+", "never"]}).json()
    assert [result["status"] for result in gone["results"]] == [200, 404]
    assert api.get(f"/groups/{group}/members").json() == {"members": [], "cursor": None}
    problem(api.post(f"/clients/{name}/subscriptions", json={"topics": ["a/#/b"]}), 400, "filterInvalid")
    problem(api.post("/clients/nobody/subscriptions", json={"topics": ["a"]}), 404)
    device.close()


def test_a_stomp_client_is_subscribed_by_others(start_broker):
    """Frame by frame; test_stompjs.py does it with a client that others wrote."""
    broker = start_broker()
    page = stomp.Client.open(broker.stomp)
    page.subscribe("/topic/own", id="mine")
    with api_of(broker) as api:
        name = next(row["clientId"] for row in api.get("/clients").json()["clients"] if row["connected"])
        rows = lambda: [(row["topic"], row["qos"]) for row in api.get(f"/clients/{name}/subscriptions").json()["subscriptions"]]
        api.post("/publish", json={"topic": "kept", "data": "before", "retain": True})
        answer = api.post(f"/clients/{name}/subscriptions", json={"topics": ["kept", "a/+", "kept"], "qos": 1})
        assert [(result["status"], result["qos"]) for result in answer.json()["results"]] == [(200, 0)] * 3
        frame = page.message()
        assert (frame.headers["subscription"], frame.headers["retained"], frame.body) == ("server-1", "true", b"before")
        # Once more is the same subscription.
        assert api.put(f"/clients/{name}/groups/kitchen").status_code == 204
        assert api.put(f"/clients/{name}/groups/kitchen").status_code == 204
        assert rows() == [("own", 0), ("kept", 0), ("a/+", 0), ("$group/kitchen", 0)]
        assert api.post("/publish", json={"group": "kitchen", "data": "soup"}).json() == {"receivers": 1}
        frame = page.message()
        assert (frame.headers["subscription"], frame.body) == ("server-3", b"soup")
        # The client ends one of them itself, others the rest.
        page.send("UNSUBSCRIBE", {"id": "server-2", "receipt": "gone"})
        page.expect("RECEIPT")
        assert api.delete(f"/clients/{name}/groups/kitchen").status_code == 204
        gone = api.delete(f"/clients/{name}/subscriptions", params={"topic": ["kept", "a/+"]}).json()
        assert [result["status"] for result in gone["results"]] == [200, 404]
        assert rows() == [("own", 0)]
        assert api.post("/publish", json={"topic": "own", "data": "still"}).json() == {"receivers": 1}
        assert page.message().headers["subscription"] == "mine"
    page.close()


# Who may


def test_keys(start_broker, tmp_path):
    secret = tmp_path / "ops.key"
    secret.write_text("ops-secret\n")
    digest = hashlib.sha256(b"reader-secret").hexdigest()
    broker = start_broker(
        api__keys=f"fn publish env:PATH, ops publish+subscribe+manage file:{secret}, reader subscribe sha256:{digest}"
    )
    with api_of(broker) as api:
        answer = api.get("/clients")
        problem(answer, 401, "badCredentials")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        problem(api.get("/clients", headers={"authorization": "Bearer wrong"}), 401)
        for headers in (
            {"authorization": "Bearer ops-secret"},
            {"x-api-key": "ops-secret"},
            {"authorization": "Basic " + base64.b64encode(b"ops:ops-secret").decode()},
        ):
            assert api.get("/clients", headers=headers).status_code == 200, headers
        publisher = {"x-api-key": os.environ["PATH"]}
        assert api.post("/publish", json={"topic": "a", "data": 1}, headers=publisher).status_code == 202
        refused = problem(api.get("/clients", headers=publisher), 403, "notAuthorized")
        assert "manage" in refused["detail"] and "fn" in refused["detail"]
        reader = {"authorization": "Bearer reader-secret"}
        assert api.get("/retained", headers=reader).status_code == 200
        problem(api.post("/publish", json={"topic": "a", "data": 1}, headers=reader), 403)
        for path in ("/health/live", "/health/ready"):
            assert api.get(path).status_code == 200
    assert "ops-secret" not in broker.log_text() and "reader-secret" not in broker.log_text()


def test_without_keys_it_is_closed_to_other_machines(start_broker):
    own = addresses.outside()
    broker = start_broker("--http", "0.0.0.0:0", security__anonymous="everywhere")
    answer = httpx.get(f"http://{own}:{broker.http}/api/v1/clients")
    assert "api.keys" in problem(answer, 403, "notConfigured")["detail"]
    assert httpx.get(broker.http_url("/api/v1/clients")).status_code == 200


def test_pages_of_other_sites_may_not(start_broker):
    broker = start_broker(websocket__allowed_origins="https://app.example.org")
    with api_of(broker) as api:
        message = {"topic": "a", "data": 1}
        listed, other = {"origin": "https://app.example.org"}, {"origin": "https://evil.test"}
        problem(api.post("/publish", json=message, headers=other), 403, "originNotAllowed")
        problem(api.get("/clients", headers={"host": "evil.test"}), 403)
        answer = api.post("/publish", json=message, headers=listed)
        assert answer.status_code == 202
        assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
        preflight = api.options("/publish", headers=listed | {"access-control-request-method": "POST"})
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        refused = api.options("/publish", headers=other | {"access-control-request-method": "POST"})
        assert "access-control-allow-methods" not in refused.headers
        assert "access-control-allow-origin" not in refused.headers


# The rest


def test_methods_and_paths(broker, api):
    answer = api.patch("/clients")
    problem(answer, 405, "methodNotAllowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    problem(api.get("/nothing"), 404, "notFound")
    problem(api.get("/clients/%zz"), 400)
    assert api.head("/clients").status_code == 200
    assert api.options("/clients/x").headers["allow"] == "GET, HEAD, DELETE, OPTIONS"
    assert api.get("/health/ready").json()["status"] == "ok"


def test_metrics_count_requests(own_broker):
    with api_of(own_broker) as api:
        api.post("/publish", json={"topic": "a", "data": 1})
        api.post("/publish", json={})
    count = lambda status: own_broker.metric("polycast_http_requests_total", operation="publish", status=status)
    assert (count("202"), count("400")) == (1, 1)
    assert own_broker.metric("polycast_http_requests_in_progress") == 0


def test_requests_are_bounded(start_broker):
    broker = start_broker(api__requests=1, api__request_timeout="1s")
    with socket.create_connection(("127.0.0.1", broker.http)) as slow:
        slow.sendall(b"POST /api/v1/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        until(lambda: broker.metric("polycast_http_requests_in_progress") == 1)
        answer = httpx.get(broker.http_url("/api/v1/clients"))
        problem(answer, 503, "busy")
        assert answer.headers["retry-after"]
        assert slow.recv(4096).startswith(b"HTTP/1.1 503")
    assert until(lambda: httpx.get(broker.http_url("/api/v1/clients")).status_code == 200)
    for path in ("/healthz", "/metrics"):
        assert broker.fetch(path)[0] == 200
