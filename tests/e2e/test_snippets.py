"""Every command and snippet of every document is run by a test: this list says by which, and what is not on it fails.

The pages that have tests of their own are named with them; the rest is run here.
"""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from support import node, pages, process

ROOT = process.ROOT
E2E = "tests/e2e"

# For each page the kinds of its blocks, and what runs all blocks of that kind: a file that reads the page, or a
# function below. Figures and drawings that nobody types are "shown".
LIST = {
    "ARCHITECTURE.md": {"text": "shown"},
    "README.md": {"sh": "commands", "js": "in_chromium", "toml": "bridge"},
    "bench/README.md": {"sh": "bench"},
    "broker/web/client/README.md": {"js": "in_chromium"},
    "docs/adding-a-protocol.md": {"rust": "protocols/tests/adding_a_protocol.rs", "text": "shown"},
    "docs/bridge.md": {"console": "commands", "toml": "bridge"},
    "docs/cli.md": {"sh": f"{E2E}/test_cli_docs.py", "text": "commands"},
    "docs/dashboard.md": {"sh": "commands", "toml": "broker"},
    "docs/functions.md": dict.fromkeys(
        ["toml", "json connect", "json disconnected", "json topic", "json letter", "python handler", "python verify"],
        f"{E2E}/test_functions_docs.py",
    ),
    "docs/http.md": {"sh": f"{E2E}/test_http_docs.py", "js": "in_chromium", "python": "python", "toml": "broker", "text": "commands"},
    "docs/javascript.md": {"js": f"{E2E}/test_javascript.py", "html": "in_chromium"},
    "docs/json-protocol.md": {
        "js": "in_chromium", "json client": "protocols/tests/json_docs.rs", "json server": "protocols/tests/json_docs.rs",
    },
    "docs/migrating-from-api-gateway.md": dict.fromkeys(["python run", "sh run", "sh watch", "text"], f"{E2E}/test_pages.py"),
    "docs/migrating-from-mosquitto.md": dict.fromkeys(["text", "toml polycast", "sh copy"], f"{E2E}/test_pages.py"),
    "docs/migrating-from-rabbitmq.md": dict.fromkeys(["js stompjs", "sh run", "sh watch", "text"], f"{E2E}/test_pages.py"),
    "docs/operations.md": dict.fromkeys(["sh", "sh stopped"], "tests/stack/test_operations.py"),
    "docs/performance.md": {"sh": "bench"},
    "docs/quick-start.md": dict.fromkeys(
        ["sh start", "sh run", "sh watch", "python watch", "text", "js console", "toml bridge"], f"{E2E}/test_pages.py"
    ),
    "docs/restart.md": {"text": "commands", "ini": "units"},
    "docs/security.md": {"json": "json", "sh": "commands", "toml": "broker", "yaml": f"{E2E}/test_scrape.py"},
    "docs/traces.md": {"sh": f"{E2E}/test_traces.py", "toml": "broker"},
    "docs/try-it.md": dict.fromkeys(
        ["sh start", "sh run", "sh watch", "text", "html stomp.html", "html json.html"], f"{E2E}/test_try_it.py"
    ),
    "tests/crash/README.md": {"sh": "crash"},
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


# --- commands -----------------------------------------------------------------------------------------


def lines_of(text: str) -> list[list[str]]:
    """The commands of a block, each as words, without comments, prompts and what they print."""
    lines = text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def knows(program: str, words: list[str]) -> None:
    """Whether a program knows a command and its options: asked for help behind them, it says what they mean."""
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "Usage:" in done.stdout, (words, done.stderr)
    for option in [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]:
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", done.stdout), (option, done.stdout)


@pytest.mark.parametrize("page,text", by("commands"))
def test_commands_are_known(page, text):
    commands = lines_of(text)
    assert commands
    for words in commands:
        if words[:6] == BENCH:
            knows_words(words[6:], SOURCES["bench"])
            continue
        if words[:2] == ["cargo", "run"]:
            assert words[2] == "--release"
            words = ["polycast", *words[4:]]
        if words[0] == "polycast":
            knows(process.polycast(), words[1:])
        elif words[0] == "polycast-bridge":
            knows(str(pathlib.Path(process.polycast()).with_name("polycast-bridge")), words[1:])
        elif words[0] == "tests/run":
            subprocess.run(["bash", "-n", str(ROOT / words[0])], check=True)
        elif words[:2] == ["cargo", "build"]:
            checked(["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"], '"polycast-bridge"')
        else:
            assert words[0] == "curl" and "/api/v1/" in words[2], words
            assert words[2].split("8080")[1] in (ROOT / "docs" / "cli.md").read_text() or "drain" in words[2]


def checked(command: list[str], wanted: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and wanted in done.stdout, done.stderr


BENCH = ["cargo", "run", "--release", "-p", "bench", "--"]
SOURCES = {"bench": "bench/src", "crash": "tests/crash"}


def knows_words(words: list[str], folder: str) -> None:
    """Options of a program that is not built for this test are in its sources."""
    text = "".join(path.read_text() for path in (ROOT / folder).rglob("*") if path.suffix in (".rs", ".py", "") and path.is_file())
    for word in words:
        if word.startswith("--"):
            name = word[2:]
            assert re.search(rf"\b{name.replace('-', '_')}\b|{re.escape(word)}\b", text), word
        elif re.fullmatch(r"[a-z][a-z-]*(:[a-z0-9=,-]+)?", word):
            assert word.split(":")[0].replace("-", "") in re.sub(r"[-_]", "", text).lower(), word


@pytest.mark.parametrize("page,text", by("bench"))
def test_bench_knows_its_options(page, text):
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    for words in lines_of(text):
        if words[:6] == BENCH:
            knows_words(words[6:], SOURCES["bench"])
        elif words[:3] == ["cargo", "bench", "-p"]:
            assert (ROOT / words[3] / "benches" / f"{words[5]}.rs").exists(), words


@pytest.mark.parametrize("page,text", by("crash"))
def test_the_crash_loop_knows_its_options(page, text):
    for words in lines_of(text):
        if words[0] == "tests/crash/run":
            knows_words(words[1:], SOURCES["crash"])
        else:
            assert words == ["cargo", "build", "-p", "broker"]


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
    for name in ("ops", "functions", "api-key"):
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
    assert "kees" in check(file, {}, "broker")


def check(file: pathlib.Path, variables: dict[str, str], which: str) -> str:
    """What the program says against a configuration; nothing if it takes it."""
    program = process.polycast() if which == "broker" else str(pathlib.Path(process.polycast()).with_name("polycast-bridge"))
    command = [program, "check-config", "--config", str(file)] if which == "broker" else [program, "--config", str(file), "check-config"]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=30,
                          env=process.plain_environment() | variables)
    return "" if done.returncode == 0 else done.stderr + done.stdout


@pytest.mark.parametrize("page,text", by("broker"))
def test_the_broker_takes_the_configuration(files, page, text):
    text = re.sub(r"/(?:etc/polycast|run/secrets)/", f"{files}/", text)
    file = files / "polycast.toml"
    file.write_text(text)
    whole = {f"POLYCAST_{key}": value for part, more in WHOLE.items() if part in text and "anonymous" not in text for key, value in more.items()}
    secrets = {name: "correct-horse-battery" for name in re.findall(r"env:(\w+)", text)}
    assert check(file, whole | secrets, "broker") == ""


@pytest.mark.parametrize("page,text", by("bridge"))
def test_the_bridge_takes_the_configuration(files, page, text):
    text = re.sub(r"/run/secrets/", f"{files}/", text)
    file = files / "bridge.toml"
    if "[sources" not in text and "[sinks" not in text:
        text += '\n[sources.one]\nkind = "webhook"\npath = "/one"\ntopic = "one"\n'
    file.write_text(text)
    secrets = {name: "correct-horse-battery" for name in re.findall(r'env = "(\w+)"', text)}
    assert check(file, secrets | {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"}, "bridge") == ""


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


@pytest.mark.parametrize("page,text", by("json"))
def test_json_is_json(page, text):
    import json

    assert json.loads(text)
