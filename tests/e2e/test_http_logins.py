"""The HTTP API where clients have to log in: the same tokens and the same access rules as everywhere."""

import httpx
import pytest

from support import json_client, process, tokens
from support.waiting import unique

KEY = "e2e-api-key-0123456789"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("http-logins")
    (folder / "key").write_text(KEY)
    broker = process.start(
        folder,
        auth__methods="token",
        auth__token_secret=tokens.SECRET,
        api__keys=f"ops publish+subscribe+manage file:{folder / 'key'}",
    )
    yield broker
    broker.stop()
    log = broker.log_text()
    assert tokens.SECRET not in log and "eyJ" not in log and KEY not in log, "a secret in the log"


def api(broker, secret=None):
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.Client(base_url=broker.http_url("/api/v1"), timeout=20, headers=headers)


def may(*rules) -> str:
    return tokens.token(permissions=list(rules))


def publish(client, topic, **fields):
    return client.post("/publish", json={"topic": topic, "data": 1} | fields)


def test_who_shows_nothing_is_asked_to_log_in(broker):
    with api(broker) as client:
        answer = publish(client, "a")
    assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")
    with api(broker, "nonsense") as client:
        assert publish(client, "a").status_code == 401
    with api(broker, tokens.token(secs=-600)) as client:
        assert publish(client, "a").status_code == 401


def test_a_token_may_do_what_the_rules_allow(broker):
    mine, other = unique("mine"), unique("other")
    token = may({"allow": ["publish"], "topics": [f"{mine}/#"]})
    with api(broker, token) as client:
        assert publish(client, f"{mine}/a").status_code == 202
        refused = publish(client, other)
        assert refused.status_code == 403 and other in refused.json()["detail"], refused.text
        assert client.get("/clients").status_code == 403
        assert client.delete(f"/retained/{other}").status_code == 403


def test_what_is_retained_is_shown_as_far_as_it_may_be_read(broker):
    seen, hidden = unique("seen"), unique("hidden")
    with api(broker, KEY) as ops:
        for topic in (seen, hidden):
            assert publish(ops, topic, retain=True).status_code in (200, 202)
    token = may({"allow": ["subscribe", "retained"], "topics": [seen]})
    with api(broker, token) as client:
        rows = client.get("/retained", params={"filter": "#"}).json()["retained"]
        assert [row["topic"] for row in rows] == [seen]
        assert client.get(f"/retained/{seen}").status_code == 200
        assert client.get(f"/retained/{hidden}").status_code == 403


def test_managing_is_an_action_of_its_own(broker):
    with api(broker, may({"allow": ["manage"]})) as client:
        assert client.get("/clients").status_code == 200
        assert publish(client, unique("t")).status_code == 403


def test_streams_follow_the_rules(broker):
    mine = unique("stream")
    with api(broker, may({"allow": ["subscribe", "publish"], "topics": [f"{mine}/#"]})) as client:
        for topic in ("#", unique("other")):
            with client.stream("GET", "/subscribe", params={"topic": topic}) as answer:
                assert answer.status_code == 403, topic
        with client.stream("GET", "/subscribe", params={"topic": f"{mine}/+"}) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            assert next(lines) == "event: connected"
            with api(broker, KEY) as ops:
                assert publish(ops, f"{mine}/a", data="for the stream").status_code == 200
            assert any("for the stream" in line for line in lines)


def test_a_key_works_beside_logins(broker):
    topic = unique("key")
    token = may({"allow": ["subscribe"], "topics": [topic]})
    listener = json_client.Client.open(broker.http, token=token)
    listener.request("subscribe", topic=topic)
    with api(broker, KEY) as ops:
        assert publish(ops, topic, data="hi").json()["receivers"] == 1
        assert ops.get("/clients").status_code == 200
    assert listener.message()["data"] == "hi"
    listener.close()
