"""The commands for a running broker, as an operator types them."""

import contextlib
import json
import signal
import subprocess

import httpx
import pytest

from support import json_client, mqtt, process, stomp, tokens
from support.waiting import unique, until

KEY = "e2e-api-key-0123456789"


def environment(**more):
    return process.plain_environment() | more


def run(broker, *arguments, code=0, **more):
    """What a command prints; its complaint if it is to fail."""
    done = subprocess.run([process.polycast(), *arguments, "--url", broker.http_url("")], capture_output=True, text=True,
                          timeout=30, env=environment(**more))
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stderr if code else done.stdout


def as_json(broker, *arguments):
    return json.loads(run(broker, *arguments, "--json"))


def table(text):
    """The rows of a table, by title. Titles and cells stand in columns."""
    lines = text.splitlines()
    titles = [title for title in lines[0].split("  ") if title.strip()]
    return [dict(zip([t.strip() for t in titles], [cell for cell in line.split("  ") if cell.strip()])) for line in lines[1:]]


def test_status(broker):
    client = mqtt.Client.open(broker.mqtt)
    text = run(broker, "status")
    assert "status         ok" in text and "mqtt" in text and "durability fsync" in text
    status = as_json(broker, "status")
    assert status["clients"] >= 1 and status["draining"] is None
    assert next(row for row in status["protocols"] if row["protocol"] == "mqtt")["connections"] >= 1
    client.close()


def test_clients(broker):
    name = unique("cli")
    client = mqtt.Client.open(broker.mqtt, client_id=name, username="ann", clean=False, props={"session_expiry": 60})
    client.subscribe("a/+", qos=1)
    rows = as_json(broker, "clients", "list", "--prefix", name)
    assert [row["clientId"] for row in rows] == [name]
    text = run(broker, "clients", "list", "--prefix", name)
    assert text.startswith("CLIENT") and name in text and "mqtt 5" in text and "ann" in text
    shown = run(broker, "clients", "show", name)
    assert "connected     yes" in shown and "a/+" in shown
    assert as_json(broker, "clients", "show", name)["subscriptions"][0]["topic"] == "a/+"
    assert run(broker, "clients", "kick", name) == ""
    assert client.expect_closed()[-1].reason == 0x98
    assert "not connected" in run(broker, "clients", "kick", name, code=1)
    assert [row["clientId"] for row in as_json(broker, "clients", "list", "--all", "--prefix", name)] == [name]
    run(broker, "clients", "kick", name, "--end-session")
    assert f'there is no client "{name}"' in run(broker, "clients", "show", name, code=1)


def test_what_clients_are_called_does_no_harm(broker):
    name = unique("evil") + "\x1b[2J/ü"
    client = mqtt.Client.open(broker.mqtt, client_id=name)
    assert "\x1b" not in run(broker, "clients", "list")
    assert as_json(broker, "clients", "show", name)["clientId"] == name
    run(broker, "clients", "kick", name)
    client.expect_closed()


def test_topics_subscriptions_retained_groups(broker):
    top = unique("top")
    client = mqtt.Client.open(broker.mqtt, client_id=top)
    client.subscribe(f"{top}/live", f"$share/workers/{top}/#", f"$group/{top}")
    for name in ("b c", "a/ü", "bytes"):
        client.publish(f"{top}/{name}", b"\xff\xfe" if name == "bytes" else b"21.5", qos=1, retain=True)
    client.publish(f"{top}/live", "x", qos=1)
    topics = as_json(broker, "topics", f"{top}/#")
    assert {row["topic"]: (row["subscribers"], row["shared"], row["retained"]) for row in topics} == {
        f"{top}/a/ü": (0, 1, True), f"{top}/b c": (0, 1, True), f"{top}/bytes": (0, 1, True), f"{top}/live": (1, 1, False),
    }
    assert len(as_json(broker, "topics", f"{top}/#", "--limit", "2")) == 2
    held = as_json(broker, "subscriptions", "--client", top)
    assert f"{top}/live" in [row["topic"] for row in held]
    assert any(row["clientId"] == top for row in as_json(broker, "subscriptions", "--limit", "100000"))
    assert [row["topic"] for row in as_json(broker, "retained", "list", f"{top}/+")] == [f"{top}/b c", f"{top}/bytes"]
    assert "21.5" in run(broker, "retained", "show", f"{top}/b c")
    raw = subprocess.run([process.polycast(), "retained", "show", f"{top}/bytes", "--raw", "--url", broker.http_url("")],
                         capture_output=True, timeout=30, env=environment())
    assert raw.stdout == b"\xff\xfe"
    groups = {row["name"]: row for row in as_json(broker, "groups", "--limit", "100000")}
    assert groups[f"$share/workers/{top}/#"]["members"] == 1
    assert [row["clientId"] for row in as_json(broker, "groups", top)] == [top]
    assert "--yes" in run(broker, "retained", "clear", f"{top}/#", code=1)
    run(broker, "retained", "clear", f"{top}/b c")
    assert run(broker, "retained", "clear", f"{top}/#", "--yes") == "2 retained messages were removed\n"
    assert "no retained message" in run(broker, "retained", "show", f"{top}/b c", code=1)
    client.close()


def test_bans_and_revocations(broker):
    user = unique("u")
    client = mqtt.Client.open(broker.mqtt, username=user)
    assert run(broker, "bans", "add", "--user", user, "--for", "1h", "--reason", "x") == "1 connections were closed\n"
    assert client.expect_closed()
    assert f"user {user}" in run(broker, "bans", "list")
    run(broker, "bans", "lift", "--user", user)
    assert user not in run(broker, "bans", "list")
    said = run(broker, "revocations", "add", "--user", user)
    assert said == "0 connections were closed, 0 sessions have ended\n"
    assert any(row.get("user") == user for row in as_json(broker, "revocations", "list"))
    run(broker, "revocations", "lift", "--user", user)
    assert "nothing of the user" in run(broker, "revocations", "lift", "--user", user, code=1)


# --- who may, and what is said when it does not work ---------------------------------------------------


def test_keys_come_from_the_environment_or_a_file(start_broker, tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    broker = start_broker(api__keys=f"ops manage file:{tmp_path / 'key'}")
    said = run(broker, "status", code=1)
    assert "--token-file" in said and "POLYCAST_TOKEN" in said
    assert KEY not in run(broker, "status", code=1, POLYCAST_TOKEN=KEY + "x")
    assert "ok" in run(broker, "status", POLYCAST_TOKEN=KEY)
    assert "ok" in run(broker, "status", "--token-file", str(tmp_path / "key"))
    assert "ok" in run(broker, "status", POLYCAST_TOKEN_FILE=str(tmp_path / "key"))


def test_a_broker_that_is_not_there_is_named(broker):
    port = process.free_port()
    done = subprocess.run([process.polycast(), "status"], capture_output=True, text=True, timeout=30,
                          env=environment(POLYCAST_URL=f"http://127.0.0.1:{port}"))
    assert done.returncode == 1 and f"no broker answers at http://127.0.0.1:{port}/" in done.stderr
    assert "is it running?" in done.stderr
    done = subprocess.run([process.polycast(), "status", "--url", "mqtt://localhost"], capture_output=True, text=True,
                          timeout=30, env=environment())
    assert "http://" in done.stderr and done.returncode == 1


def test_variables_of_the_commands_are_no_settings(tmp_path):
    done = subprocess.run([process.polycast(), "check-config"], capture_output=True, text=True, timeout=30, cwd=tmp_path,
                          env=environment(POLYCAST_URL="http://x", POLYCAST_TOKEN="x", POLYCAST_TOKEN_FILE="x"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(shell):
    done = subprocess.run([process.polycast(), "completions", shell], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "revocations" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


def test_manual(tmp_path):
    done = subprocess.run([process.polycast(), "man"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout.startswith(".ie") and "polycast" in done.stdout
    done = subprocess.run([process.polycast(), "man", "--dir", str(tmp_path / "man")], timeout=30)
    assert done.returncode == 0
    pages = {page.name for page in (tmp_path / "man").iterdir()}
    assert {"polycast.1", "polycast-clients-kick.1", "polycast-drain.1"} <= pages


# --- reload -------------------------------------------------------------------------------------------


def test_reload(start_broker, tmp_path):
    file = tmp_path / "polycast.toml"
    file.write_text("[limits]\nsubscriptions_per_session = 100\n")
    broker = start_broker("--config", str(file))
    assert run(broker, "reload") == "nothing has changed\n"
    file.write_text("[limits]\nsubscriptions_per_session = 7\n[mqtt]\nlisten = \"127.0.0.1:1\"\n")
    assert "limits.subscriptions_per_session is now 7" in run(broker, "reload")
    file.write_text("[limits]\nnonsense = 1\n")
    said = run(broker, "reload", code=1)
    assert "the configuration was not reloaded" in said and "nonsense" in said


# --- drain --------------------------------------------------------------------------------------------


def drained(broker):
    assert broker.process.wait(20) == 0
    broker.stopped = True
    assert "panic: " not in broker.log_text()


def test_drain_sends_everybody_away_and_ends(start_broker):
    broker = start_broker(drain__server="b.example.org:1883")
    five, three = mqtt.Client.open(broker.mqtt), mqtt.Client.open(broker.mqtt, 4)
    frames = stomp.Client.open(broker.stomp)
    objects = json_client.Client.open(broker.http)
    assert "4 clients are sent away over 0.2 s" in run(broker, "drain", "--over", "200ms", "--wait")
    gone = five.expect_closed()[-1]
    assert gone.reason == 0x9C and gone.properties["server_reference"] == "b.example.org:1883"
    assert three.expect_closed() == []
    error = frames.expect_error()
    assert error["message"] == "Server shutting down" and error["server"] == "b.example.org:1883"
    said, code = objects.expect_closed()
    assert code == 1001 and said[-1]["reason"] == "shutdown" and said[-1]["server"] == "b.example.org:1883"
    drained(broker)


def test_drain_names_a_server_for_good(start_broker):
    broker = start_broker()
    client = mqtt.Client.open(broker.mqtt)
    run(broker, "drain", "--over", "0s", "--server", "new:1883", "--moved")
    gone = client.expect_closed()[-1]
    assert gone.reason == 0x9D and gone.properties["server_reference"] == "new:1883"
    drained(broker)


def test_drain_spreads_and_lets_nobody_in(start_broker):
    broker = start_broker(limits__drain_grace="20s")
    clients = [mqtt.Client.open(broker.mqtt) for _ in range(20)]
    assert as_json(broker, "drain", "--over", "1h")["clients"] == 20
    # The first goes at once, the last in an hour: the others are served meanwhile.
    clients[0].expect_closed()
    clients[-1].subscribe("a", qos=1)
    clients[-1].publish("a", b"still", qos=1)
    assert clients[-1].message().payload == b"still"
    with pytest.raises(ConnectionError):
        mqtt.Client.open(broker.mqtt)
    # When nobody is left it does not wait for the end of the hour.
    for client in clients[1:]:
        client.close()
    drained(broker)


def test_a_signal_ends_a_drain(start_broker):
    broker = start_broker(limits__drain_grace="5s")
    clients = [mqtt.Client.open(broker.mqtt) for _ in range(3)]
    run(broker, "drain", "--over", "1h")
    clients[0].expect_closed()
    broker.signal(signal.SIGTERM)
    assert [client.expect_closed()[-1].reason for client in clients[1:]] == [0x8B, 0x8B]
    drained(broker)


def test_a_drained_session_waits_for_its_client(tmp_path):
    def start():
        folder = tmp_path / unique("run")
        folder.mkdir()
        return process.start(folder, data=tmp_path / "data")

    lasting = {"client_id": "lasting", "clean": False, "props": {"session_expiry": 600}}
    broker = start()
    client = mqtt.Client.open(broker.mqtt, **lasting)
    client.subscribe("a", qos=1)
    run(broker, "drain", "--over", "0s")
    client.expect_closed()
    drained(broker)
    broker = start()
    assert mqtt.Client.open(broker.mqtt, **lasting).connack.session_present
    broker.stop()


def test_a_new_broker_takes_over_the_port(start_broker):
    """SO_REUSEPORT: both listen, and the old one leaves."""
    old = start_broker("--mqtt", f"127.0.0.1:{process.free_port()}", drain__reuse_port=True)
    new = start_broker("--mqtt", f"127.0.0.1:{old.mqtt}", drain__reuse_port=True)
    client = mqtt.Client.open(old.mqtt)
    run(old, "drain", "--over", "0s")
    drained(old)
    mqtt.Client.open(new.mqtt).disconnect()
    client.close()


def test_sockets_that_are_handed_over(tmp_path):
    """Socket activation: nobody is refused while the broker is away."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def start():
        code = (
            "import os, sys\n"
            f"os.dup2({listener.fileno()}, 3)\n"
            "os.set_inheritable(3, True)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='mqtt')\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        arguments = ["--stomp", "off", "--http", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
        log = (tmp_path / "log").open("ab")
        return subprocess.Popen(["python3", "-c", code, process.polycast(), "serve", *arguments], stdout=log, stderr=log,
                                env=environment(), pass_fds=[listener.fileno()])

    first = start()
    client = mqtt.Client.plain(port)
    client.login()
    first.terminate()
    client.expect_closed()
    assert first.wait(30) == 0
    # It waits in the backlog of the socket that stays open.
    waiting = mqtt.Client.plain(port)
    waiting.send(mqtt.connect("early"))
    second = start()
    assert waiting.expect(mqtt.CONNACK).reason == 0
    second.terminate()
    assert second.wait(30) == 0


# --- explain and trace ----------------------------------------------------------------------------------


def test_explain(start_broker):
    rules = [
        {"allow": ["publish"], "topics": ["a/#"], "users": ["ann"]},
        {"allow": ["subscribe"], "topics": ["a/#"]},
        {"deny": ["subscribe"], "topics": ["a/b"], "users": ["eve"]},
    ]
    broker = start_broker(access__rules=json.dumps(rules), access__unmatched="deny")
    mqtt_client = mqtt.Client.open(broker.mqtt, client_id="m", username="bob")
    mqtt_client.subscribe("a/+", qos=0)
    away = mqtt.Client.open(broker.mqtt, client_id="away", username="bob", clean=False, props={"session_expiry": 60})
    away.subscribe("a/b", qos=1)
    away.disconnect()
    withheld = mqtt.Client.open(broker.mqtt, client_id="w", username="eve")
    withheld.subscribe("a/#", qos=1)
    stomp_client = stomp.Client.open(broker.stomp, login="bob", **{"client-id": "s"})
    stomp_client.subscribe("/topic/a/b")
    json_client.Client.open(broker.http, clientId="j", username="bob").request("subscribe", topic="a/b")
    said = as_json(broker, "explain", "--from", "mqtt", "--topic", "a/b", "--user", "ann")
    assert said["publish"]["allowed"] and said["publish"]["rule"].startswith("rule 1 of the configuration")
    outcomes = {row["clientId"]: row["outcome"] for row in said["receivers"]}
    assert outcomes == {"m": "delivered", "away": "queued", "w": "withheld", "s": "delivered", "j": "delivered"}
    rule = next(row["rule"] for row in said["receivers"] if row["clientId"] == "w")
    assert rule.startswith("rule 3 of the configuration") and "eve" in rule
    assert said["frames"]["stomp"].startswith("MESSAGE\n") and "destination:/topic/a/b" in said["frames"]["stomp"]
    assert json.loads(said["frames"]["json"])["topic"] == "a/b"
    assert said["frames"]["mqtt"].startswith('PUBLISH topic "a/b", QoS 1')
    text = run(broker, "explain", "--from", "mqtt", "--topic", "a/b", "--as", "stomp")
    assert "publish on a/b: denied" in text and "s (stomp, user bob) by a/b" in text and "m (" not in text
    assert "in stomp:\n  MESSAGE" in text
    # What is said is what happens.
    assert as_json(broker, "explain", "--topic", "a/b", "--client", "m")["publish"]["allowed"] is False
    assert mqtt_client.publish("a/b", "x", qos=1).reason == 0x87
    own = as_json(broker, "explain", "--topic", "$SYS/x")["publish"]
    assert not own["allowed"] and "read-only" in own["rule"]
    assert "nobody would receive it" in run(broker, "explain", "--topic", "nobody/here")
    assert "there is no client" in run(broker, "explain", "--topic", "a", "--client", "none", code=1)
    assert "there are mqtt, stomp, json" in run(broker, "explain", "--topic", "a", "--as", "gopher", code=1)


class Tracing:
    def __init__(self, broker, *what):
        self.process = subprocess.Popen([process.polycast(), "trace", *what, "--json", "--url", broker.http_url("")],
                                        stdout=subprocess.PIPE, text=True, env=environment())

    def until(self, event, **fields):
        for line in self.process.stdout:
            found = json.loads(line)
            if found["event"] == event and all(found.get(name) == value for name, value in fields.items()):
                return found
        raise AssertionError(f"no {event} {fields}")

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


def is_followed(broker, client, event, tracing):
    """A trace begins a moment after the command does: something is done until it is seen."""
    done = []
    import threading

    thread = threading.Thread(target=lambda: done.append(tracing.until(event)))
    thread.start()
    until(lambda: (client.publish("trace/begin", "x", qos=1), bool(done))[1], "the trace has begun")
    thread.join()


def test_trace_a_client(broker):
    name = unique("traced")
    client = mqtt.Client.open(broker.mqtt, client_id=name)
    tracing = Tracing(broker, "client", name)
    is_followed(broker, client, "published", tracing)
    topic = unique("t")
    client.subscribe(topic, qos=1)
    assert tracing.until("subscribed")["filter"] == topic
    other = mqtt.Client.open(broker.mqtt)
    other.publish(topic, b"not to be shown", qos=1)
    client.message()
    found = tracing.until("delivered", topic=topic)
    assert found["clientId"] == name and found["qos"] == 1 and found["size"] == 15
    assert "not to be shown" not in json.dumps(found)
    client.drop()
    assert tracing.until("disconnected")["reason"] == "lost"
    tracing.close()


def test_trace_a_topic_across_protocols(broker):
    top = unique("top")
    client = mqtt.Client.open(broker.mqtt)
    frames = stomp.Client.open(broker.stomp, **{"client-id": f"{top}-s"})
    frames.subscribe(f"/topic/{top}/x")
    tracing = Tracing(broker, "topic", f"{top}/#")
    done = []
    import threading

    thread = threading.Thread(target=lambda: done.append(tracing.until("delivered", protocol="stomp")))
    thread.start()
    until(lambda: (client.publish(f"{top}/x", "x", qos=1), bool(done))[1], "the trace has begun")
    thread.join()
    assert done[0]["clientId"] == f"{top}-s" and done[0]["topic"] == f"{top}/x"
    tracing.close()


def test_traces_end_and_are_bounded(broker):
    done = subprocess.run([process.polycast(), "trace", "client", "nobody", "--for", "1s", "--url", broker.http_url("")],
                          capture_output=True, text=True, timeout=30, env=environment())
    assert done.returncode == 0 and done.stdout.strip() == "end"
    def another():
        return subprocess.run([process.polycast(), "trace", "client", "x", "--for", "1s", "--url", broker.http_url("")],
                              capture_output=True, text=True, timeout=30, env=environment())

    with contextlib.ExitStack() as held, httpx.Client(base_url=broker.http_url("/api/v1"), limits=httpx.Limits()) as client:
        answers = []
        while not answers or answers[-1] == 200:
            stream = client.stream("GET", "/trace", params={"clientId": "nobody", "seconds": 3600})
            answers.append(held.enter_context(stream).status_code)
            assert len(answers) <= 17
        assert answers[-1] == 503 and "16 traces already" in another().stderr
    until(lambda: another().returncode == 0, "they are forgotten when their reader has gone", 30)


# --- what holds for all commands ----------------------------------------------------------------------


QUESTIONS = [
    ["status"], ["clients", "list"], ["clients", "list", "--all"], ["topics"], ["subscriptions"], ["retained", "list"],
    ["groups"], ["bans", "list"], ["revocations", "list"], ["explain", "--topic", "a/b"],
]
CHANGES = [
    ["clients", "kick", "nobody"], ["retained", "clear", "a"], ["bans", "lift", "--user", "x"],
    ["revocations", "lift", "--user", "x"], ["reload"], ["drain"], ["trace", "client", "x", "--for", "1s"],
]


@pytest.mark.parametrize("command", QUESTIONS, ids=" ".join)
def test_each_answer_can_be_had_as_json(broker, command):
    as_json(broker, *command)


@pytest.mark.parametrize("command", QUESTIONS + CHANGES, ids=" ".join)
def test_each_says_that_there_is_no_broker(command):
    address = f"http://127.0.0.1:{process.free_port()}"
    done = subprocess.run([process.polycast(), *command, "--url", address], capture_output=True, text=True, timeout=30,
                          env=environment())
    assert done.returncode == 1 and done.stdout == ""
    assert f"no broker answers at {address}" in done.stderr and "is it running?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_clients_are_found_by_any_part_of_their_name(broker):
    name = unique("Gate")
    client = mqtt.Client.open(broker.mqtt, client_id=f"north-{name}-7", username=f"of-{name}")
    other = mqtt.Client.open(broker.mqtt, client_id=unique("south"), username=f"Keeper-{name}")
    found = as_json(broker, "clients", "list", f"--search={name.upper()}-7")
    assert [row["clientId"] for row in found] == [f"north-{name}-7"]
    assert len(as_json(broker, "clients", "list", f"--search=-{name}")) == 2
    assert as_json(broker, "clients", "list", f"--search={name}-8") == []
    client.close()
    other.close()


def commands(name: str = "") -> list[str]:
    """The commands that the help names, and theirs."""
    done = subprocess.run([process.polycast(), *name.split(), "--help"], capture_output=True, text=True, timeout=30)
    listed = done.stdout.split("Commands:\n", 1)
    if len(listed) < 2:
        return []
    words = [line.split()[0] for line in listed[1].split("\n\n")[0].splitlines() if line.startswith("  ") and line[2] != " "]
    names = [f"{name} {word}".strip() for word in words if word != "help"]
    return names + [inner for each in names for inner in commands(each)]


def test_each_command_has_a_manual_page(tmp_path):
    subprocess.run([process.polycast(), "man", "--dir", str(tmp_path)], check=True, timeout=30)
    there = {page.name for page in tmp_path.iterdir()}
    names = commands()
    assert len(names) > 30
    assert {f"polycast-{name.replace(' ', '-')}.1" for name in names} <= there


def test_bash_completes(tmp_path):
    subprocess.run(f"{process.polycast()} completions bash > {tmp_path}/polycast.bash", shell=True, check=True, timeout=30)

    def completed(*words: str) -> list[str]:
        script = f"source {tmp_path}/polycast.bash; COMP_WORDS=({' '.join(words)} ''); COMP_CWORD={len(words)}; " \
                 f"_polycast polycast '' {words[-1]}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
        return done.stdout.split()

    assert {"serve", "status", "clients", "drain"} <= set(completed("polycast"))
    assert {"list", "show", "kick"} <= set(completed("polycast", "clients"))
    assert {"--search", "--json"} <= set(completed("polycast", "clients", "list"))
