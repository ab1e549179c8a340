"""Secrets come from files and the environment, and nothing that Polycast prints shows one."""

import json
import os
import signal
import stat
import subprocess
import tomllib

import httpx
import pytest

from support import json_client, mqtt, process, stomp, tokens
from support.waiting import until

SECRETS = {
    "token": "the-token-secret-0123456789abcdef0123456789",
    "callback": "the-callback-secret-0123456789abcdef",
    "api": "the-key-of-the-api-0123456789",
    "aws": "the-secret-of-the-access-key-0123456789",
    "lambda": "the-secret-of-the-functions-0123456789",
    "hmac": "the-key-that-signs-webhooks-0123456789",
}
SHOWN = {
    "password": "the-password-that-ann-types",
    "query": "the-token-in-the-query",
    "bearer": "the-bearer-of-the-api",
}


def assert_silent(text: str) -> None:
    for name, secret in (SECRETS | SHOWN).items():
        assert secret not in text, f"the {name} secret is printed"
        # What an escaped or cut form of it would show.
        assert secret[:24] not in text, f"a part of the {name} secret is printed"
    assert "eyJ" not in text, "a token is printed"


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run([process.polycast(), *arguments], capture_output=True, text=True, timeout=30,
                          env=process.plain_environment() | environment)


def write(folder, name, text) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def functions(source) -> list[dict]:
    return [
        {"name": "one", "lambda": "one", "endpoint": "http://127.0.0.1:9", "region": "eu-west-1", "access_key": "AKIA",
         "secret_key": source("lambda")},
        {"name": "two", "url": "http://127.0.0.1:9/", "hmac": source("hmac")},
    ]


def from_files(folder) -> dict:
    """Every secret in a file of its own."""
    def source(name):
        return f"file:{write(folder, name, SECRETS[name] + chr(10))}"

    return {
        "auth__token_secret_file": write(folder, "token", SECRETS["token"] + "\n"),
        "auth__callback_secret_file": write(folder, "callback", SECRETS["callback"] + "\n"),
        "api__keys": f"ops manage {source('api')}",
        "api__aws_keys": f"AKIAEXAMPLE publish {source('aws')}",
        "functions__targets": json.dumps(functions(source)),
    }


def from_environment(_) -> dict:
    """Every secret in a variable: in the setting's own, or in one that the setting names."""
    return {
        "auth__token_secret": SECRETS["token"],
        "auth__callback_secret": SECRETS["callback"],
        "api__keys": "ops manage env:THE_API",
        "api__aws_keys": "AKIAEXAMPLE publish env:THE_AWS",
        "functions__targets": json.dumps(functions(lambda name: f"env:THE_{name.upper()}")),
    }


@pytest.fixture
def environment(monkeypatch):
    for name in ("lambda", "hmac", "api", "aws"):
        monkeypatch.setenv(f"THE_{name.upper()}", SECRETS[name])


@pytest.mark.parametrize("source", [from_files, from_environment])
def test_they_work_and_are_in_no_log(start_broker, tmp_path, environment, source):
    broker = start_broker(
        auth__methods="token,callback",
        auth__callback_url="http://127.0.0.1:9/",
        functions__private_networks="127.0.0.0/8",
        log__level="trace",
        access__unmatched="allow",
        **source(tmp_path),
    )
    good = tokens.hs256(secret=SECRETS["token"])
    mqtt.Client.open(broker.mqtt, username="ann", password=good).disconnect()
    json_client.Client.open(broker.http, token=good).close()
    stomp.Client.open(broker.stomp, passcode=good).close()
    ops = httpx.get(broker.http_url("/api/v1/clients"), headers={"x-api-key": SECRETS["api"]})
    assert ops.status_code == 200
    assert_silent(ops.text)
    # What is wrong is not written down either.
    mqtt.Client.plain(broker.mqtt).login(username="ann", password=SHOWN["password"], expect_reason=0x88)
    client = json_client.Client(broker.http, path=f"/ws?access_token={SHOWN['query']}")
    assert client.ask("connect")["type"] == "error"
    refused = httpx.get(broker.http_url("/api/v1/clients"), headers={"authorization": f"Bearer {SHOWN['bearer']}"})
    assert refused.status_code in (401, 503)
    for url in ("/metrics", "/healthz", "/api/v1/status", "/api/openapi.json"):
        assert_silent(httpx.get(broker.http_url(url), headers={"x-api-key": SECRETS["api"]}).text)
    broker.signal(signal.SIGHUP)
    until(lambda: "nothing has changed" in broker.log_text())
    broker.stop()
    assert_silent(broker.log_text())


def test_a_changed_secret_is_not_shown_by_the_reload(start_broker, tmp_path):
    file = tmp_path / "polycast.toml"

    def text(secret):
        return f'[auth]\nmethods = ["token"]\ntoken_secret = "{secret}"\n'

    file.write_text(text("x" * 40))
    broker = start_broker("--config", str(file), log__level="trace")
    file.write_text(text(SECRETS["token"]))
    broker.signal(signal.SIGHUP)

    def is_in_force():
        client = mqtt.Client.plain(broker.mqtt)
        client.send(mqtt.connect("c", username="x", password=tokens.hs256(secret=SECRETS["token"])))
        return client.expect(mqtt.CONNACK).reason == 0

    until(is_in_force)
    file.write_text(text(SECRETS["token"]) + "mistake = 1\n")
    broker.signal(signal.SIGHUP)
    until(lambda: "mistake" in broker.log_text())
    assert_silent(broker.log_text())


MISTAKES = {
    "unknown key beside it": 'token_secret = "{}"\ntoken_secrt = "{}"\n',
    "no end of the text": 'token_secret = "{}\n',
    "no quotes": "token_secret = {}\n",
    "a list": 'token_secret = ["{}"]\n',
    "a table": 'token_secret = {{ value = "{}" }}\n',
    "twice": 'token_secret = "{0}"\ntoken_secret = "{0}"\n',
    "a number": "token_secret = 12345678901234567890\n",
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("command", [["check-config"], ["serve", "--mqtt", "127.0.0.1:0"]])
def test_mistakes_beside_a_secret_do_not_show_it(tmp_path, mistake, command):
    text = MISTAKES[mistake].format(SECRETS["token"], SECRETS["callback"])
    file = write(tmp_path, "polycast.toml", f'[auth]\nmethods = ["token"]\n{text}')
    done = run(*command, "--config", file)
    assert done.returncode == 1, done.stdout + done.stderr
    assert " mistake" in done.stdout + done.stderr and "polycast.toml:" in done.stdout + done.stderr
    assert_silent(done.stdout + done.stderr)
    assert "12345678901234567890" not in done.stdout + done.stderr


def test_what_is_printed_of_a_good_configuration(tmp_path):
    settings = {f"POLYCAST_{key.upper()}": value for key, value in from_files(tmp_path).items()}
    settings |= {"POLYCAST_AUTH__METHODS": "token"}
    for arguments in (["check-config"], ["check-config", "-v"], ["default-config"]):
        done = run(*arguments, **settings)
        assert_silent(done.stdout + done.stderr)
    inline = {"POLYCAST_AUTH__METHODS": "token", "POLYCAST_AUTH__TOKEN_SECRET": SECRETS["token"]}
    for arguments in (["check-config"], ["default-config"]):
        done = run(*arguments, **inline)
        assert done.returncode == 0, done.stderr
        assert_silent(done.stdout + done.stderr)


def test_what_is_stored_is_for_its_owner_alone(start_broker):
    """Whatever the umask of whoever started it was."""
    before = os.umask(0)
    try:
        broker = start_broker(auth__methods="token", auth__token_secret=tokens.SECRET, access__unmatched="allow")
    finally:
        os.umask(before)
    client = mqtt.Client.open(broker.mqtt, username="ann", password=tokens.token("ann", jti="t"), clean=False,
                              props={"session_expiry": 600})
    client.publish("kept", b"x", qos=1, retain=True)
    client.close()
    broker.stop()
    data = broker.log.parent / "data"
    stored = [data, *data.rglob("*")]
    assert len(stored) > 3
    for path in stored:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_there_is_no_secret_by_default():
    printed = subprocess.run([process.polycast(), "default-config"], capture_output=True, text=True, check=True).stdout
    settings = tomllib.loads(printed)
    named = ("auth.token_secret", "auth.callback_secret", "auth.token_secret_file", "auth.callback_secret_file",
             "auth.token_key_files", "auth.password_file", "api.keys", "api.aws_keys", "tls.key", "auth.methods")
    for name in named:
        section, key = name.split(".")
        assert settings[section][key] in ("", []), name
