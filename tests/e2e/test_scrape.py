"""Who may read `/metrics`, and the figures in answers about the broker's health."""

import hashlib
import http.client
import json
import signal
import socket
import subprocess

import pytest

from support import pages, tokens
from support.waiting import until

KEY = f"ops manage sha256:{hashlib.sha256(b'key').hexdigest()}"
OTHER = f"app publish sha256:{hashlib.sha256(b'app').hexdigest()}"
LOGINS = {"auth__methods": "token", "auth__token_secret": tokens.SECRET}


def stranger() -> str:
    """An address of this machine that others reach too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


def ask(broker, path="/metrics", address="127.0.0.1", method="GET", **headers):
    """Status and body; a header `x_y` is `x-y`."""
    connection = http.client.HTTPConnection(address, broker.http, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def is_open(broker, **more) -> bool:
    """Whether they are there to be read; otherwise nothing of them is."""
    status, text = ask(broker, **more)
    assert (status == 200) == ("polycast_" in text), text[:400]
    assert status in (200, 401, 403), text
    return status == 200


@pytest.fixture
def public(start_broker):
    """A broker that others than this machine reach."""

    def start(**settings):
        address = stranger()
        if address.startswith("127."):
            pytest.skip("this machine has no other address")
        broker = start_broker("--http", "0.0.0.0:0", **settings)
        broker.address = address
        return broker

    return start


def test_strangers_read_nothing_once_there_are_logins(public):
    broker = public(**LOGINS, api__keys=f"{KEY}, {OTHER}", access__rules='[{"allow": "manage", "users": ["ops"]}]')
    far = broker.address
    assert is_open(broker), "Prometheus on this machine needs nothing"
    assert is_open(broker, Host="localhost:8080")
    assert not is_open(broker, address=far)
    assert not is_open(broker, address=far, Host="localhost")
    # A proxy on this machine, and a page of a name that points to it.
    assert not is_open(broker, X_Forwarded_For="198.51.100.7")
    assert not is_open(broker, Via="1.1 proxy")
    assert not is_open(broker, Host="evil.test")
    # With what lets people manage.
    assert is_open(broker, address=far, Authorization="Bearer key")
    assert is_open(broker, address=far, X_API_Key="key")
    assert is_open(broker, address=far, Authorization=f"Bearer {tokens.token('ops')}")
    assert is_open(broker, address=far, path=f"/metrics?access_token={tokens.token('ops')}")
    assert not is_open(broker, address=far, Authorization="Bearer app")
    assert not is_open(broker, address=far, Authorization="Bearer guess")
    assert not is_open(broker, address=far, Authorization=f"Bearer {tokens.token('ann')}")
    assert ask(broker, address=far, method="HEAD")[0] == 401
    assert ask(broker, address=far, method="POST")[0] == 405


def test_strangers_read_nothing_once_there_are_keys(public):
    broker = public(security__anonymous="everywhere", api__keys=KEY)
    assert is_open(broker)
    assert not is_open(broker, address=broker.address)
    assert is_open(broker, address=broker.address, Authorization="Bearer key")


def test_where_nobody_needs_a_login_all_may_read(public):
    broker = public(security__anonymous="everywhere")
    assert is_open(broker, address=broker.address)


def test_health_tells_strangers_no_figures(public):
    broker = public(**LOGINS)
    for path, told in (
        ("/healthz", {"version", "connections", "sessions"}),
        ("/api/v1/health/live", {"version"}),
        ("/api/v1/health/ready", {"connections", "sessions"}),
    ):
        here, far = (json.loads(ask(broker, path=path, address=address)[1]) for address in ("127.0.0.1", broker.address))
        assert here["status"] == far["status"] == "ok"
        assert set(here) - set(far) == told, (here, far)


def test_settings_change_with_sighup(start_broker, tmp_path):
    config = tmp_path / "polycast.toml"
    rest = f'\n[api]\nkeys = ["{KEY}"]\n'

    def turn(setting: str) -> None:
        config.write_text(f'[http]\nmetrics = "{setting}"{rest}')

    turn("protected")
    broker = start_broker("--config", str(config))
    assert not is_open(broker)
    assert is_open(broker, Authorization="Bearer key")
    turn("off")
    broker.signal(signal.SIGHUP)
    until(lambda: ask(broker)[0] == 404, "they are switched off")
    assert ask(broker, Authorization="Bearer key")[0] == 404
    assert "polycast_" in ask(broker, path="/api/v1/metrics", Authorization="Bearer key")[1], "the dashboard goes on"
    turn("open")
    broker.signal(signal.SIGHUP)
    until(lambda: ask(broker)[0] == 200, "everyone may read them")
    assert is_open(broker, X_Forwarded_For="198.51.100.7")


def test_what_the_page_says_to_prometheus(public, tmp_path):
    """Its key, as the page has it, is enough; Prometheus takes the page's configuration."""
    (config,) = (block.text for block in pages.blocks("../docs/security.md") if block.kind == "yaml")
    file = tmp_path / "prometheus.yml"
    file.write_text(config)
    checked = subprocess.run(["promtool", "check", "config", "--syntax-only", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    secret = tmp_path / "key"
    secret.write_text("key-of-its-own\n")
    broker = public(**LOGINS, api__keys=f"prometheus manage file:{secret}")
    assert not is_open(broker, address=broker.address)
    assert is_open(broker, address=broker.address, Authorization="Bearer key-of-its-own")
