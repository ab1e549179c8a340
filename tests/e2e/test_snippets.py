"""Every command and snippet of every document is run by a test: this list says by which, and what is not on it fails.

The pages that have tests of their own are named with them; the rest is run here.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from support import mqtt, node, pages, process, scenes, tokens

ROOT = process.ROOT
E2E = "tests/e2e"
COMMANDS = f"{E2E}/test_commands.py"
BRIDGE = "tests/bridge/test_documents.py"

# For each page the kinds of its blocks, and what runs all blocks of that kind: a file that reads the page, or a
# function below. Figures and drawings that nobody types are "shown".
LIST = {
    "ARCHITECTURE.md": {"text": "shown"},
    "README.md": {"sh": COMMANDS, "js": "in_chromium", "toml": BRIDGE},
    "bench/README.md": {"sh": COMMANDS},
    "broker/web/client/README.md": {"js": "in_chromium"},
    "docs/adding-a-protocol.md": {"rust": "protocols/tests/adding_a_protocol.rs", "text": "shown"},
    "docs/bridge.md": {"console": BRIDGE, "toml": BRIDGE},
    "docs/cli.md": {"sh": f"{E2E}/test_cli_docs.py", "text": COMMANDS},
    "docs/dashboard.md": {"sh": COMMANDS, "toml": "broker"},
    "docs/functions.md": dict.fromkeys(
        ["toml", "json connect", "json disconnected", "json topic", "json letter", "python handler", "python verify"],
        f"{E2E}/test_functions_docs.py",
    ),
    "docs/http.md": {"sh": f"{E2E}/test_http_docs.py", "js": "in_chromium", "python": "python", "toml": "broker", "text": COMMANDS},
    "docs/javascript.md": {"js": f"{E2E}/test_javascript.py", "html": "in_chromium"},
    "docs/json-protocol.md": {
        "js": "in_chromium", "json client": "protocols/tests/json_docs.rs", "json server": "protocols/tests/json_docs.rs",
    },
    "docs/migrating-from-api-gateway.md": dict.fromkeys(["python run", "sh run", "sh watch", "text"], f"{E2E}/test_pages.py"),
    "docs/migrating-from-mosquitto.md": dict.fromkeys(["text", "toml polycast", "sh copy"], f"{E2E}/test_pages.py"),
    "docs/migrating-from-rabbitmq.md": dict.fromkeys(["js stompjs", "sh run", "sh watch", "text"], f"{E2E}/test_pages.py"),
    "docs/operations.md": dict.fromkeys(["sh", "sh stopped"], "tests/stack/test_operations.py"),
    "docs/performance.md": {"sh": COMMANDS},
    "docs/quick-start.md": {"toml bridge": BRIDGE} | dict.fromkeys(
        ["sh start", "sh run", "sh watch", "python watch", "text", "js console"], f"{E2E}/test_pages.py"
    ),
    "docs/restart.md": {"text": COMMANDS, "ini": "units"},
    "docs/security.md": {"json": "security_json", "sh": COMMANDS, "toml": "broker", "yaml": f"{E2E}/test_scrape.py"},
    "docs/traces.md": {"sh": f"{E2E}/test_traces.py", "toml": "broker"},
    "docs/try-it.md": dict.fromkeys(
        ["sh start", "sh run", "sh watch", "text", "html stomp.html", "html json.html"], f"{E2E}/test_try_it.py"
    ),
    "tests/crash/README.md": {"sh": COMMANDS},
}


def documents() -> list[str]:
    """All that are kept under version control."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if not name.startswith("tests/chat/")]


def blocks(page: str, kind: str | None = None) -> list[str] | set[str]:
    found = pages.blocks(f"../{page}")
    return [block.text for block in found if block.kind == kind] if kind else {block.kind for block in found}


def by(checker: str) -> list:
    """What a function below has to run, a parameter each."""
    return [
        pytest.param(page, text, id=f"{page}-{number}")
        for page, kinds in LIST.items() for kind, how in kinds.items() if how == checker
        for number, text in enumerate(blocks(page, kind))
    ]


def test_the_list_has_every_kind_of_block_of_every_document():
    there = {page: kinds for page in documents() if (kinds := blocks(page))}
    assert there == {page: set(kinds) for page, kinds in LIST.items()}


def test_whoever_is_named_reads_the_page():
    here = pathlib.Path(__file__).read_text()
    for page, kinds in LIST.items():
        for how in set(kinds.values()) - {"shown"}:
            name = pathlib.Path(page).name
            assert name in (ROOT / how).read_text() if "/" in how else f'by("{how}")' in here, (page, how)


# --- commands in the text ---------------------------------------------------------------------------

# They come from elsewhere, or take a machine of one's own; what `$SYS/broker/version` says; any command at all.
ALLOWED = ("polycast … | head", "polycast version …", "docker compose ", "systemctl ", "apt install ", "pip install ", "npm install ")


UI = sorted((ROOT / "broker/web/ui").glob("*.js"))


def mentioned() -> list:
    """Commands that stand in a sentence, of documents, of messages, of the dashboard."""
    word = r"`((?:polycast|polycast-bridge|curl|cargo|docker|systemctl|apt|pip|npm|tests/(?:run|crash/run|paho/run)\S*) [^`\n]+)`"
    pairs = {(page, line) for page in documents() for line in re.findall(word, (ROOT / page).read_text())}
    ours = [path for folder in ("broker/src", "bridge/src", "deploy", "docker") for path in (ROOT / folder).rglob("*.*")]
    pairs |= {(path.name, line) for path in ours for line in re.findall(r"`(polycast(?:-bridge)? [^`\n{]+)`", path.read_text())}
    # The dashboard says it in plain words.
    pairs |= {("dashboard", line) for path in UI for line in re.findall(r"\bRun (polycast (?:data \w+|\w+))", path.read_text())}
    return [pytest.param(line, id=f"{page}: {line}") for page, line in sorted(pairs)]


@pytest.mark.parametrize("line", mentioned())
def test_what_a_sentence_names_is_there(line, broker, tmp_path):
    """With arguments it is run; without them, or with a word in capitals for one, the program knows it and its options."""
    words = shlex.split(line.replace("…", "").replace("|", " "))
    if line.startswith(ALLOWED):
        return
    if line.startswith("curl "):
        run = line.replace("localhost:8080", f"localhost:{broker.http}") if "/" in line else f"{words[0]} --help all"
        done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
    elif line.startswith("cargo install"):
        assert 'name = "polycast"' in (ROOT / words[words.index("--path") + 1] / "Cargo.toml").read_text()
    elif words[0] == "cargo":
        assert (ROOT / words[words.index("-p") + 1] / "Cargo.toml").exists()
    elif words[0].startswith("tests/"):
        assert subprocess.run(["bash", "-n", str(ROOT / words[0])]).returncode == 0
    else:
        knows(str(scenes.program(words[0])), words[1:])


def knows(program: str, words: list[str]) -> None:
    """Whether a program knows a command and its options: asked for help behind them, it says what they mean."""
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "Usage:" in done.stdout, (words, done.stderr)
    for option in [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]:
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", done.stdout), (option, done.stdout)


# --- configuration ------------------------------------------------------------------------------------

# What a part of a configuration needs to be whole.
WHOLE = {
    'methods = ["certificate"': {
        "AUTH__TOKEN_SECRET": "a secret of at least thirty-two bytes", "AUTH__PASSWORD_FILE": "passwords",
        "AUTH__CALLBACK_URL": "http://127.0.0.1:1/", "TLS__CLIENT_CA": "ca.pem",
        "TLS__CERTIFICATE": "server.pem", "TLS__KEY": "server-key.pem", "MQTT__TLS_LISTEN": "127.0.0.1:0",
    },
    'tls_listen = "0.0.0.0': {"SECURITY__ANONYMOUS": "everywhere"},
}


@pytest.fixture
def files(tmp_path) -> pathlib.Path:
    """The files that configurations name."""
    polycast = process.polycast()
    for name in ("ops", "functions", "api-key", "prometheus-key"):
        (tmp_path / name).write_text("correct-horse-battery\n")
    subprocess.run([polycast, "cert", "server", "localhost", "--dir", str(tmp_path)], check=True, capture_output=True, timeout=30)
    for made, name in (("server.pem", "cert.pem"), ("server-key.pem", "key.pem")):
        (tmp_path / name).write_bytes((tmp_path / made).read_bytes())
        (tmp_path / name).chmod(0o600)
    subprocess.run([polycast, "passwd", str(tmp_path / "passwords"), "ann"], input="a long password\n", text=True,
                   check=True, capture_output=True, timeout=60, env=process.plain_environment())
    return tmp_path


def test_no_key_of_the_configuration_is_made_up(files):
    file = files / "polycast.toml"
    file.write_text("[api]\nkees = []\n")
    assert "kees" in check(file, {})


def check(file: pathlib.Path, variables: dict[str, str]) -> str:
    """What `check-config` says against a configuration; nothing if it takes it."""
    done = subprocess.run(
        [process.polycast(), "check-config", "--config", str(file)], cwd=file.parent, capture_output=True, text=True, timeout=30,
        env=process.plain_environment() | variables,
    )
    return "" if done.returncode == 0 else done.stderr + done.stdout


@pytest.mark.parametrize("page,text", by("broker"))
def test_the_broker_takes_the_configuration_and_starts(files, monkeypatch, page, text):
    text = re.sub(r"/(?:etc/polycast|run/secrets)/", f"{files}/", text)
    file = files / "polycast.toml"
    file.write_text(text)
    whole = {key: value for part, more in WHOLE.items() if part in text and "anonymous" not in text for key, value in more.items()}
    secrets = {name: "correct-horse-battery" for name in re.findall(r"env:(\w+)", text)}
    assert check(file, {f"POLYCAST_{key}": value for key, value in whole.items()} | secrets) == ""
    file.write_text(re.sub(r'(tls_listen = )"0\.0\.0\.0:\d+"', rf'\1"{process.LOOPBACK}:0"', text))
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    off = [word for name in re.findall(r'\[(\w+)\]\nlisten = "off"', text) for word in (f"--{name}", "off")]
    broker = process.start(files, "--config", str(file), *off, **{key.lower(): value for key, value in whole.items()})
    try:
        assert broker.fetch("/healthz")[0] == 200
        proof = next((proof for part, proof in PROOFS.items() if part in text), None)
        assert proof is None or proof(broker), "what the page says of it"
    finally:
        broker.stop()


def api(broker: process.Broker, key: str) -> int:
    """The status of a request for clients with a key."""
    request = urllib.request.Request(broker.http_url("/api/v1/clients"), headers={"x-api-key": key})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


def keys_count(broker: process.Broker) -> bool:
    return (api(broker, "correct-horse-battery"), api(broker, "another-key-of-no-use")) == (200, 401)


def says_tls(broker: process.Broker) -> bool:
    return len(re.findall(r"\b(?:mqtts|stomps|https)://127\.0\.0\.1:\d+", broker.log_text())) >= 2


# What can be seen from outside of a configuration; that it starts is all of the others.
PROOFS = {
    "DASHBOARD_KEY": keys_count,
    "dashboard = false": lambda broker: [broker.fetch(path)[0] for path in ("/", "/demo/chat", "/demo/fleet", "/polycast.js")] == [404] * 4,
    "tls_listen": says_tls,
}


def test_systemd_takes_the_units(tmp_path):
    """All of a page together, as they name each other."""
    texts = blocks("docs/restart.md", "ini")
    assert by("units") and len(texts) == 2
    for text in texts:
        name = re.match(r"# ([\w.-]+)", text)[1]
        text = text.replace("/usr/bin/polycast serve --config /etc/polycast/polycast.toml", process.polycast())
        (tmp_path / name).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr


# --- programs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page,text", by("in_chromium"))
def test_it_runs_in_chromium(own_broker, tmp_path, page, text):
    file = tmp_path / "snippet"
    text = text.replace("localhost:8080", f"127.0.0.1:{own_broker.http}")
    file.write_text(text.replace("from 'polycast'", "from '/polycast.js'"))
    topic = re.search(r"['\"=](\w+)/(?:#|%23)", text)[1] + "/test"
    kind = "html" if "<script" in text else "script"
    said = node.run("snippet.mjs", kind, str(file), own_broker.http_url(""), topic, patience=40)
    assert said.strip(), "nothing was shown"


@pytest.mark.parametrize("page,text", by("python"))
def test_python_runs(own_broker, page, text):
    from support import json_client

    client = json_client.Client.open(own_broker.http)
    text = text.replace("localhost:8080", f"127.0.0.1:{own_broker.http}")
    before = (
        "import boto3, json, os, urllib.request\n"
        "os.environ.update(AWS_ACCESS_KEY_ID='x', AWS_SECRET_ACCESS_KEY='x', AWS_DEFAULT_REGION='eu-west-1')\n"
        f"found = json.load(urllib.request.urlopen('{own_broker.http_url('/api/v1/clients')}'))\n"
        "connection_id = found['clients'][0]['connectionId']\n"
    )
    subprocess.run([sys.executable, "-c", before + text], check=True, timeout=30, env=process.plain_environment())
    assert "hello" in str(client.message())
    client.close()


SERVICE_ASKED, SERVICE_ANSWER, CLAIMS = range(3)


@pytest.mark.parametrize("page", ["docs/security.md"])
def test_the_service_is_asked_and_answers_as_the_page_says(start_broker, page):
    assert by("security_json")
    asked, answer, _ = map(json.loads, blocks(page, "json"))
    # One login has all of it: a certificate would need TLS, and a password is a token only over MQTT 5.
    service = tokens.Service(lambda request: (200, {}, answer))
    broker = start_broker(auth__methods="callback", auth__callback_url=service.url)
    try:
        client = mqtt.Client.open(broker.mqtt, client_id=asked["clientId"], username=asked["username"], password=asked["password"])
        got = service.requests[0]
        got.pop("authorization")
        assert {name: got[name] for name in ("clientId", "username", "password", "protocol")} == {
            name: asked[name] for name in ("clientId", "username", "password", "protocol")
        }
        assert set(got) <= set(asked), got
        client.disconnect()
    finally:
        service.close()


def test_a_token_with_the_permissions_of_the_page(start_broker):
    claims = json.loads(blocks("docs/security.md", "json")[CLAIMS])
    broker = start_broker(auth__methods="token", auth__token_secret=tokens.SECRET)
    client = mqtt.Client.open(broker.mqtt, password=tokens.token(claims.pop("sub"), **claims))
    try:
        topic = claims["permissions"][0]["topics"][0].replace("${site}", claims["site"])
        assert client.publish(topic, b"x", qos=1).reason in (0, 0x10)
        assert client.publish("sites/s2/notes", b"x", qos=1).reason == 0x87
    finally:
        client.close()
