"""Runs the commands of the documents, block by block; those of pages with tests of their own are run there.

A block that is not on the list of scenes fails. Only what builds a release (`cargo build`) is looked up and not done,
and `tests/run`, which runs this.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest

from support import json_client, mqtt, pages, process, scenes, stomp
from support.scenes import addressed, built, lines_of, run, serving, watching
from support.waiting import until

PAGES = (
    "README.md", "bench/README.md", "docs/cli.md", "docs/dashboard.md", "docs/http.md", "docs/performance.md",
    "docs/restart.md", "docs/security.md", "tests/crash/README.md",
)
# A comparison of brokers takes a while, also a small one.
pytestmark = pytest.mark.timeout(600)

ELSEWHERE = {("docs/cli.md", "sh"): "test_cli_docs.py", ("docs/http.md", "sh"): "test_http_docs.py"}


def found() -> list:
    """The blocks with commands, a parameter each."""
    return [
        pytest.param(page, block, id=f"{page}-{number}")
        for page in PAGES
        for number, block in enumerate(pages.blocks(f"../{page}"))
        if block.kind in ("sh", "text") and (page, block.kind) not in ELSEWHERE
    ]


@pytest.mark.parametrize("page,block", found())
def test_the_commands_work(page, block, tmp_path, start_broker):
    lines = lines_of(block.text)
    scene = next((scene for begin, scene in SCENES.items() if lines[0].startswith(begin)), None)
    assert scene, f"nothing runs the block of {page} that begins with {lines[0]}"
    scene(block.text if scene in WHOLE else lines, tmp_path, start_broker)


def test_no_scene_is_for_nothing():
    firsts = [lines_of(parameter.values[1].text)[0] for parameter in found()]
    for begin in SCENES:
        assert any(first.startswith(begin) for first in firsts), begin


def builds(line: str) -> bool:
    """Whether a line only builds; then what it builds has to be there."""
    words = shlex.split(line, comments=True)
    if words[:2] != ["cargo", "build"]:
        return False
    done = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"],
        cwd=process.ROOT, capture_output=True, text=True, timeout=60, check=True,
    )
    packages = {package["name"]: {target["name"] for target in package["targets"]} for package in json.loads(done.stdout)["packages"]}
    package = words[words.index("-p") + 1] if "-p" in words else "broker"
    assert package in packages, line
    assert "--bin" not in words or words[words.index("--bin") + 1] in packages[package], line
    return True


# --- the broker and its clients ------------------------------------------------------------------------


def the_start(lines, folder, _start):
    serve, tests = lines
    with serving(built(serve), folder):
        pass
    assert shlex.split(tests, comments=True) == ["tests/run"]
    subprocess.run(["bash", "-n", str(process.ROOT / "tests/run")], check=True)
    assert "pytest -q -n 4 --dist worksteal tests/e2e" in (process.ROOT / "tests/run").read_text(), "it is what runs this"


def two_terminals(lines, folder, start):
    broker = start()
    subscribe, publish = (addressed(built(line), broker) for line in lines)
    with watching(subscribe, folder) as shown:
        until(lambda: run(publish, folder) == "" and "hello/world hi\n" in shown(), "it is shown")


def running_it(lines, folder, start):
    serve, default, check, usage = lines
    (folder / "polycast.toml").write_text("[log]\nformat = \"text\"\n")
    with serving(serve, folder) as broker:
        assert broker.stomp is None
    (folder / "polycast.toml").unlink()
    assert "mqtt" in tomllib.loads(run(default, folder))
    assert "127.0.0.1:1883" in run(check, folder)
    assert "mqtt://" in run(usage, folder)


def vehicles(lines, folder, start):
    broker = start()
    [simulate] = lines
    reader = mqtt.Client.open(broker.mqtt)
    reader.subscribe("fleet/+/status")
    with watching(addressed(simulate, broker), folder):
        seen = set()
        until(lambda: seen.add(reader.message().topic) or len(seen) == 100, "all of them are there", 30)
    reader.close()


def a_drain(lines, folder, start):
    """The client is told where to go, and the broker ends by itself."""
    [line] = lines
    broker = start()
    client = json_client.Client.open(broker.http)
    line = line.replace("localhost:8080", f"localhost:{broker.http}")
    line = line.replace("10min", "1s").replace('"over":30', '"over":1')
    done = subprocess.Popen(["bash", "-euc", line], cwd=folder, env=scenes.environment(broker))
    server = re.search(r"(\w+\.example\.org:1883)", line)[1]
    assert client.await_frame(lambda frame: frame["type"] == "disconnect")["server"] == server
    client.close()
    assert done.wait(30) == 0
    assert broker.process.wait(30) == 0
    broker.stopped = True


def an_explanation(text, folder, start):
    """With the two rules that the page shows, and the client that it names."""
    rules = re.findall(r"rule \d of the configuration: \{ (.*) \}", text)
    config = folder / "polycast.toml"
    config.write_text(
        'auth.methods = ["password"]\nauth.password_file = "passwords"\napi.keys = ["ops manage file:key"]\n'
        + "".join(f"[[access.rules]]\n{rule.replace('], ', ']' + chr(10))}\n" for rule in rules)
    )
    (folder / "key").write_text("correct-horse-battery\n")
    for user in ("ann", "bob"):
        subprocess.run([process.polycast(), "passwd", "passwords", user], input="a long password\n", text=True, check=True,
                       cwd=folder, env=process.plain_environment(), timeout=60)
    broker = process.start(folder, "--config", str(config))
    try:
        display = stomp.Client.open(broker.stomp, client_id="display-7", login="bob", passcode="a long password")
        display.subscribe("/topic/a/b")
        shown, [line] = text.split("\n", 1)[1], lines_of(text)
        printed = run(line, folder, POLYCAST_URL=broker.http_url(""), POLYCAST_TOKEN="correct-horse-battery")
        begin, _ = shown.split("  ...")
        assert printed.startswith(begin), printed
        display.close()
    finally:
        broker.stop()


# --- security ------------------------------------------------------------------------------------------


def a_password(lines, folder, _start):
    [line] = lines
    said = scenes.at_a_terminal(line, folder, ["a long password"] * 2)
    assert "a long password" not in said
    broker = process.start(folder, auth__methods="password", auth__password_file=str(folder / "passwords"))
    try:
        mqtt.Client.open(broker.mqtt, username="ann", password="a long password").disconnect()
    finally:
        broker.stop()


def certificates(lines, folder, _start):
    make, serve, subscribe = lines
    run(make, folder)
    with serving(serve, folder) as broker:
        with watching(addressed(subscribe, broker), folder) as shown:
            publish = f"polycast publish mqtt://localhost:{broker.mqtt} -t a -m over-tls"
            until(lambda: run(publish, folder) == "" and "over-tls" in shown(), "it is shown")


# --- the load generator --------------------------------------------------------------------------------

# What makes a measurement one of a moment; the words are those of `bench list`.
SMALL = {
    "receivers": "20", "publishers": "2", "pairs": "5", "secs": "0.2", "warm": "0", "connections": "20", "topics": "100",
    "messages": "100", "sessions": "10", "sample": "5", "settle": "0", "most": "500", "filters": "500", "limit": "5", "window": "10",
}


def parameters() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Of `bench list`: the parameters of each scenario, and the scenarios of each suite."""
    scenarios, suites, name = {}, {}, ""
    for line in run(f"{scenes.program('bench')} list", process.ROOT).splitlines():
        if suite := re.match(r"suite (\S+): (.*)", line):
            suites[suite[1]] = suite[2].split()
        elif scenario := re.match(r"(\S+): ", line):
            name = scenario[1]
            scenarios[name] = []
        else:
            parameter = re.match(r"\s+([\w-]+)=(\S+)", line)
            # What is no number is a choice.
            if parameter[2][0].isdigit():
                scenarios[name].append(parameter[1])
    return scenarios, suites


def small(suite: str) -> str:
    """A suite with one value for each parameter, each measurement for a moment."""
    scenarios, suites = parameters()
    said = []
    for scenario in suites[suite]:
        name, _, given = scenario.partition(":")
        values = {key: value.split("/")[0] for key, value in (pair.split("=") for pair in given.split(",") if pair)}
        values |= {key: value for key, value in SMALL.items() if key in scenarios[name]}
        said.append(f"--scenario {name}:" + ",".join(f"{key}={value}" for key, value in values.items()))
    return " ".join(said)


def compared(line: str, folder: pathlib.Path) -> None:
    """Runs a comparison small: of the brokers that the line names those that are there, else of Polycast."""
    (folder / "bench").symlink_to(process.ROOT / "bench")
    suite = re.search(r"--scenario (\S+)", line)[1]
    named = re.search(r"--brokers (\S+)", line)
    brokers = named[1].split(",") if named else ["polycast"]
    programs = {"nats": "nats-server", "mosquitto": "mosquitto"}
    there = [name for name in brokers if name == "polycast" or name in programs and shutil.which(programs[name], path="/usr/sbin:/usr/bin:/usr/local/bin")]
    assert len(there) >= min(len(brokers), 3), "tests/run --setup installs them"
    line = re.sub(r"--scenario \S+", small(suite), re.sub(r" --brokers \S+", "", line), count=1)
    line = re.sub(r"--rounds \d+", "--rounds 1", line) + f" --brokers {','.join(there)} --polycast {process.polycast()}"
    printed = run(line, folder, patience=300)
    assert all(name in printed.lower() for name in there), printed
    if out := re.search(r"--out (\S+)", line):
        assert {path.name for path in (folder / out[1]).iterdir()} >= {"report.json", "report.html", "report.md", "report.txt"}
    (folder / "bench").unlink()


def measurements(lines, folder, start):
    for line in lines:
        if builds(line):
            continue
        line = built(line).split("  #")[0]
        if " compare " in line:
            compared(line, folder)
        elif " run " in line:
            broker = start()
            line = line.replace("$(pidof polycast)", str(broker.process.pid))
            assert "fan-out" in run(pages.adapted(line, broker), folder)
        else:
            assert re.search(r" (limit|list)$", line.rstrip()) and run(line, folder)


def micro_benchmarks(lines, folder, _start):
    """What `cargo bench` runs, as a debug build and without its long measurement: it shows that each step works."""
    for line in lines:
        package, bench = re.match(r"cargo bench -p (\w+) --bench (\w+)", line).groups()
        assert (process.ROOT / package / "benches" / f"{bench}.rs").exists()
        assert run(str(executable(bench)), folder, patience=300)


def executable(bench: str) -> pathlib.Path:
    """The newest build of a benchmark."""
    found = [path for path in (process.target_directory() / "debug" / "deps").glob(f"{bench}-*") if not path.suffix]
    assert found, f"{bench} is not built: cargo build --benches -p protocols -p broker"
    return max(found, key=lambda path: path.stat().st_mtime)


def instructions(text, folder, _start):
    """Cargo runs the benchmark by valgrind; here the debug build takes cargo's place."""
    line = re.sub(r"cargo bench -p protocols --bench connection --", '$CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER "$BENCH"', text)
    line = line.replace("    CARGO_TARGET", "    export CARGO_TARGET").replace("' \\\n", "'\n")
    few, many = re.findall(r"Collected : (\d+)", run(line, folder, patience=120, BENCH=str(executable("connection"))))
    assert int(few) < int(many)


# --- the crash loop ------------------------------------------------------------------------------------


def crashes(lines, folder, _start):
    assert builds(lines.pop(0))
    for number, line in enumerate(lines):
        line = re.sub(r"--cycles \d+", "--cycles 1 --acks 300", line.split("  #")[0])
        if "--power-cut" in line:
            line = as_root(line)
        kept = folder / str(number)
        # Another broker may break what it never promised; then the exit code is 1.
        codes = (0, 1) if "--broker mosquitto" in line else (0,)
        printed = run(f"{line} --folder {kept}", process.ROOT, patience=200, codes=codes, POLYCAST_PYTHON=sys.executable,
                      POLYCAST_BIN=process.polycast())
        assert re.search(r"1 cycles, \d+ acknowledged", printed), printed
        assert kept.exists() or "--keep" not in line


def as_root(line: str) -> str:
    return line if os.getuid() == 0 else f"sudo -n --preserve-env {line}"


WHOLE = (an_explanation, instructions)
"""Scenes that take the text of the block: what it shows counts, too."""

SCENES = {
    "cargo run --release        #": the_start,
    "cargo run --release -- subscribe": two_terminals,
    "polycast serve --config": running_it,
    "cargo build --release": measurements,
    "cargo bench": micro_benchmarks,
    "for times in": instructions,
    "polycast explain": an_explanation,
    "polycast simulate": vehicles,
    "curl -s localhost:8080/api/v1/drain": a_drain,
    "polycast drain": a_drain,
    "polycast passwd": a_password,
    "polycast cert": certificates,
    "cargo build -p broker": crashes,
}
