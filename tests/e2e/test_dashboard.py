"""The pages of the HTTP port in Chromium: the dashboard, also with 10,000 clients, and the demonstrations."""

import contextlib
import gzip
import http.client
import re
import subprocess
import sys

import pytest

from support import node, process, story, tokens
from support.waiting import until

WEB = process.ROOT / "broker" / "web"
CROWD = 10_000
ROOM = {
    "limits__connections_per_ip": 2 * CROWD,
    "limits__connections_per_ip_per_sec": CROWD,
    "limits__connections_per_sec": CROWD,
}


@contextlib.contextmanager
def running(*command: str, **options):
    """A process that is there for a while."""
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def test_with_ten_thousand_clients(start_broker):
    broker = start_broker(**ROOM)
    folder = process.ROOT / "tests" / "e2e"
    with running(sys.executable, "-m", "support.crowd", str(broker.mqtt), str(CROWD), cwd=folder) as crowd:
        assert crowd.stdout.readline() == "ready\n"
        until(lambda: broker.metric("polycast_connections", protocol="mqtt") == CROWD, "all are there", 60)
        node.run("dashboard.mjs", "crowd", broker.http_url(""), str(CROWD), patience=90)


@pytest.mark.parametrize("case", ["console", "topics", "operations", "phone", "names", "chat"])
def test_in_chromium(start_broker, case):
    # Of its own: on the first pages of its lists is what the case has made.
    broker = start_broker()
    node.run("dashboard.mjs", case, broker.http_url(""), patience=90)


def test_an_api_key_signs_in(start_broker, monkeypatch):
    monkeypatch.setenv("DASHBOARD_KEY", "correct-horse")
    broker = start_broker(api__keys="ops publish+subscribe+manage env:DASHBOARD_KEY")
    node.run("dashboard.mjs", "sign_in", broker.http_url(""), "correct-horse", patience=90)


def test_a_key_that_may_less_shows_less(start_broker, monkeypatch):
    monkeypatch.setenv("LOOKER_KEY", "battery-staple")
    broker = start_broker(api__keys="looker manage env:LOOKER_KEY")
    node.run("dashboard.mjs", "sign_in_with_less", broker.http_url(""), "battery-staple", patience=90)


def test_a_token_signs_in_and_opens_the_console(start_broker):
    broker = start_broker(auth__methods="token", auth__token_secret=tokens.SECRET, access__unmatched="allow")
    node.run("dashboard.mjs", "sign_in_with_a_token", broker.http_url(""), tokens.token(), patience=90)


def test_it_says_that_the_broker_is_gone_and_back(tmp_path):
    story.run(tmp_path, "dashboard.mjs", "alarms", "http://ADDRESS")


def test_a_fleet_drives(broker):
    url = f"mqtt://127.0.0.1:{broker.mqtt}"
    with running(process.polycast(), "simulate", "fleet", url, "-n", "5", "--every", "0.2", "-W", "90"):
        node.run("dashboard.mjs", "fleet", broker.http_url(""), patience=90)


def test_a_fleet_without_a_broker_says_so():
    done = subprocess.run(
        [process.polycast(), "simulate", "fleet", f"mqtt://127.0.0.1:{process.free_port()}"],
        capture_output=True, text=True, timeout=30,
    )
    assert done.returncode == 1
    assert "nothing listens there" in done.stderr


def ask(broker, method: str, path: str, **headers: str):
    connection = http.client.HTTPConnection(process.LOOPBACK, broker.http, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_pages_are_asked_for_again_by_their_tag(broker):
    status, headers, body = ask(broker, "GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8") and body
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    again, _, nothing = ask(broker, "GET", "/", **{"If-None-Match": headers["etag"]})
    assert (again, nothing) == (304, b"")
    status, head, nothing = ask(broker, "HEAD", "/")
    assert (status, head["etag"], nothing) == (200, headers["etag"], b"")
    status, headers, _ = ask(broker, "POST", "/")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_pages_are_small_on_the_wire(broker):
    """Who takes gzip gets it, with a tag of its own, and who does not gets the text."""
    plain, packed = 0, 0
    for path in ("/", *(f"/ui/{file.name}" for file in (WEB / "ui").iterdir() if file.name != "index.html")):
        _, headers, text = ask(broker, "GET", path)
        _, other, body = ask(broker, "GET", path, **{"Accept-Encoding": "gzip, deflate, br"})
        assert other["content-encoding"] == "gzip" and gzip.decompress(body) == text, path
        assert headers["content-encoding"] is None and headers["etag"] != other["etag"], path
        assert headers["vary"] == other["vary"] == "accept-encoding"
        again = ask(broker, "GET", path, **{"Accept-Encoding": "gzip", "If-None-Match": other["etag"]})
        assert (again[0], again[1]["etag"], again[2]) == (304, other["etag"], b"")
        plain, packed = plain + len(text), packed + len(body)
    assert packed < 40_000 and packed < plain / 2, (packed, plain)


def test_pages_of_any_site_may_load_the_client(broker):
    status, headers, _ = ask(broker, "GET", "/polycast.js", Origin="https://shop.example")
    assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] == "public, max-age=300"


def test_pages_can_be_turned_off(start_broker):
    broker = start_broker(pages__dashboard=False, pages__demos=False, pages__client=False)
    for path in ("/", "/ui/dashboard.js", "/demo/chat", "/demo/fleet", "/polycast.js", "/polycast.d.ts"):
        assert broker.fetch(path)[0] == 404, path
    assert broker.fetch("/healthz")[0] == 200


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read(theme):
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, 3 for what is drawn."""
    text = (WEB / "ui" / "dashboard.css").read_text()
    colors = {name: pair[theme] for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", text)}
    for paper in ("paper", "raised"):
        for name in ("ink", "soft", "bad", "warn", "good"):
            assert contrast(colors[name], colors[paper]) >= 4.5, (name, paper)
        for name in ("mqtt", "stomp", "json", "sse", "http"):
            assert contrast(colors[name], colors[paper]) >= 3, (name, paper)
    for name in ("mqtt", "stomp", "json"):
        assert contrast(colors[name], colors["raised"]) >= 4.5, name
