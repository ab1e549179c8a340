"""What survives when the broker is killed or the disk is full, in every protocol, by real clients over real sockets."""

import json
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

from support import json_client, mqtt, process, stomp
from support.waiting import unique, until

LASTING = {"session_expiry": 1000}
GRACE = {"store__recovery_grace": "1s"}


class Phoenix:
    """A broker that is killed and started again on the same data."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path | None, **settings):
        self.folder, self.settings, self.lives = folder, GRACE | settings, 0
        self.data = data or folder / "data"
        self.rise()

    def rise(self, **settings) -> None:
        self.settings |= settings
        self.lives += 1
        life = self.folder / str(self.lives)
        life.mkdir()
        self.broker = process.start(life, data=self.data, **self.settings)

    def die(self) -> None:
        """No time for anything."""
        self.broker.signal(signal.SIGKILL)
        self.broker.process.wait(30)
        self.broker.stopped = True

    def again(self, **settings) -> None:
        self.die()
        self.rise(**settings)

    def mqtt(self, name: str | None = None, version=5, **options) -> mqtt.Client:
        options = {"clean": False} | options
        if version == 5:
            options = {"props": LASTING} | options
        return mqtt.Client.open(self.broker.mqtt, version, client_id=name or unique("client"), **options)

    def stomp(self, **headers) -> stomp.Client:
        return stomp.Client.open(self.broker.stomp, **headers)

    def json(self, **fields) -> json_client.Client:
        return json_client.Client.open(self.broker.http, **fields)


@pytest.fixture
def phoenix(tmp_path):
    risen = []

    def rise(data: pathlib.Path | None = None, **settings):
        folder = tmp_path / f"phoenix-{len(risen)}"
        folder.mkdir()
        risen.append(Phoenix(folder, data, **settings))
        return risen[-1]

    yield rise
    for one in risen:
        one.broker.stop()


# --- R1 to R8: kill -9 at the worst moment ------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_acknowledged_messages_reach_a_durable_session(phoenix, qos, version):
    broker = phoenix()
    reader = broker.mqtt("reader", version)
    reader.subscribe("a/#", qos=qos)
    reader.drop()
    sender = broker.mqtt("sender", version)
    for number in range(50):
        sender.publish(f"a/{number % 3}", str(number).encode(), qos)
    broker.again()
    reader = broker.mqtt("reader", version)
    assert reader.connack.session_present
    got = reader.messages(50)
    assert [int(message.payload) for message in got] == list(range(50))
    assert [message.packet_id for message in got] == list(range(1, 51))
    reader.nothing_before("a/end")


def test_stomp_receipts_hold(phoenix):
    broker = phoenix()
    topic, queue = "/topic/a", "/queue/jobs"
    reader = broker.stomp(client_id="reader")
    reader.subscribe(topic, id="d", durable="true", ack="client-individual")
    reader.stream.close()
    sender = broker.stomp()
    for number in range(20):
        sender.publish(topic, f"t{number}")
        sender.publish(queue, f"q{number}")
    sender.request("BEGIN", {"transaction": "x"})
    for number in range(3):
        sender.publish(queue, f"x{number}", transaction="x")
    sender.request("COMMIT", {"transaction": "x"})
    broker.again()
    reader = broker.stomp(client_id="reader")
    reader.subscribe(topic, id="d", durable="true", ack="client-individual")
    reader.subscribe(queue, id="q", ack="client-individual")
    wanted = [f"t{number}" for number in range(20)], [f"q{number}" for number in range(20)] + ["x0", "x1", "x2"]
    got = {"d": [], "q": []}
    for _ in range(43):
        message = reader.message()
        got[message["subscription"]].append(message.body.decode())
        reader.settle("ACK", message)
    assert (got["d"], got["q"]) == wanted
    broker.again()
    reader = broker.stomp(client_id="reader")
    reader.subscribe(topic, id="d", durable="true", ack="client-individual")
    reader.subscribe(queue, id="q", ack="client-individual")
    reader.publish(topic, "mark")
    assert reader.message().body == b"mark", "what was acknowledged with a receipt is done"


def test_json_acks_hold(phoenix):
    broker = phoenix()
    reader = broker.json(clientId="reader", session={"expiry": 1000})
    reader.request("subscribe", topic="a/#", qos=1)
    reader.drop()
    sender = broker.json(clientId="sender")
    for number in range(20):
        sender.request("publish", topic="a/b", data=number, qos=1)
    broker.again()
    reader = broker.json(clientId="reader", session={"expiry": 1000})
    assert reader.connected["sessionPresent"]
    assert [frame["data"] for frame in (reader.message() for _ in range(10))] == list(range(10))


def test_a_packet_identifier_that_was_not_released_is_not_published_again(phoenix):
    broker = phoenix()
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=2)
    sender = broker.mqtt("sender")
    sender.send(mqtt.publish("a", b"once", 2, 77))
    assert sender.await_kind(mqtt.PUBREC).reason == 0
    broker.again()
    sender = broker.mqtt("sender")
    sender.send(mqtt.publish("a", b"once", 2, 77, dup=True))
    assert sender.await_kind(mqtt.PUBREC).packet_id == 77
    sender.send(mqtt.acknowledge(mqtt.PUBREL, 77))
    assert sender.await_kind(mqtt.PUBCOMP).reason == 0
    broker.again()
    sender = broker.mqtt("sender")
    sender.publish("a", b"other", 2)
    sender.send(mqtt.publish("a", b"third", 2, 77))
    assert sender.await_kind(mqtt.PUBREC).packet_id == 77
    reader = broker.mqtt("reader")
    assert [message.payload for message in reader.messages(3)] == [b"once", b"other", b"third"]


def test_after_pubrec_only_pubrel_comes_again(phoenix):
    broker = phoenix()
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=2)
    broker.mqtt("sender").publish("a", b"x", 2)
    message = reader.await_kind(mqtt.PUBLISH)
    reader.send(mqtt.acknowledge(mqtt.PUBREC, message.packet_id))
    assert reader.await_kind(mqtt.PUBREL).packet_id == message.packet_id
    broker.again()
    reader = broker.mqtt("reader")
    first = reader.receive()
    assert (first.kind, first.packet_id) == (mqtt.PUBREL, message.packet_id)
    reader.send(mqtt.acknowledge(mqtt.PUBCOMP, message.packet_id))
    reader.nothing_before("a")


def test_an_open_message_comes_again_under_its_identifier(phoenix):
    broker = phoenix()
    reader = broker.mqtt("reader", props=LASTING | {"receive_maximum": 3})
    reader.subscribe("a", qos=2)
    sender = broker.mqtt("sender")
    for number in range(6):
        sender.publish("a", str(number).encode(), 2)
    first = [reader.await_kind(mqtt.PUBLISH) for _ in range(3)]
    broker.again()
    reader = broker.mqtt("reader", props=LASTING | {"receive_maximum": 3})
    again = [reader.await_kind(mqtt.PUBLISH) for _ in range(3)]
    assert [(p.packet_id, p.payload, p.dup) for p in again] == [(p.packet_id, p.payload, True) for p in first]


def test_a_live_message_does_not_overtake_the_backlog(phoenix):
    broker = phoenix(limits__stored_queue_memory="1KiB")
    reader = broker.mqtt("reader", props=LASTING | {"receive_maximum": 2})
    reader.subscribe("a", qos=1)
    reader.drop()
    sender = broker.mqtt("sender")
    for number in range(40):
        sender.publish("a", str(number).encode(), 1)
    broker.again()
    reader = broker.mqtt("reader", props=LASTING | {"receive_maximum": 2})
    sender = broker.mqtt("sender")
    got = []
    for number in range(40, 80):
        sender.publish("a", str(number).encode(), 1)
        got += [int(reader.message().payload)]
    got += [int(message.payload) for message in reader.messages(40)]
    assert got == list(range(80))


def test_subscriptions_and_their_absence_hold_from_the_answer_on(phoenix):
    broker = phoenix()
    reader = broker.mqtt("reader")
    reader.subscribe("gone", qos=1)
    reader.unsubscribe("gone")
    reader.subscribe("there", qos=1)
    broker.again()
    sender = broker.mqtt("sender")
    sender.publish("gone", b"no", 1)
    sender.publish("there", b"yes", 1)
    assert broker.mqtt("reader").message().payload == b"yes"


def test_retained_messages_are_as_they_were_acknowledged(phoenix):
    broker = phoenix()
    sender = broker.mqtt("sender")
    for number in range(5):
        sender.publish("kept", str(number).encode(), 1, retain=True)
        sender.publish("deleted", b"x", 1, retain=True)
    sender.publish("deleted", b"", 1, retain=True)
    broker.again()
    reader = broker.mqtt("reader")
    reader.subscribe("#", qos=1)
    assert (reader.message().payload, reader.connack.session_present) == (b"4", 0)
    reader.nothing_before("end")


def test_a_clean_start_forgets_for_good(phoenix):
    broker = phoenix()
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=1)
    reader.drop()
    broker.mqtt("sender").publish("a", b"x", 1)
    broker.mqtt("reader", clean=True).drop()
    broker.again()
    reader = broker.mqtt("reader")
    assert reader.connack.session_present
    reader.fence()
    broker.mqtt("reader", clean=True, props={}).disconnect()
    broker.again()
    assert not broker.mqtt("reader").connack.session_present


def test_a_will_whose_client_does_not_come_back_is_said(phoenix):
    broker = phoenix(store__recovery_grace="3s")
    watcher = broker.mqtt("watcher")
    watcher.subscribe("will/#", qos=1)
    dead = mqtt.Will("will/dead", b"dead", 1)
    alive = mqtt.Will("will/alive", b"alive", 1)
    # Held until the broker is killed: a client that nobody holds closes its connection.
    held = [broker.mqtt("dead", will=dead), broker.mqtt("alive", will=alive)]
    broker.again()
    held.clear()
    back = broker.mqtt("alive", will=alive)
    watcher = broker.mqtt("watcher")
    assert watcher.message().payload == b"dead"
    watcher.nothing_before("will/mark")
    back.disconnect()


def test_sessions_that_ended_meanwhile_are_gone_and_their_wills_said(phoenix):
    broker = phoenix()
    watcher = broker.mqtt("watcher")
    watcher.subscribe("will/#", qos=1)
    will = mqtt.Will("will/late", b"late", 1, properties={"will_delay": 2})
    broker.mqtt("short", props={"session_expiry": 1}).drop()
    broker.mqtt("late", will=will).drop()
    until(lambda: broker.broker.metric("polycast_connections", protocol="mqtt") == 1, "both are away")
    broker.die()
    broker.rise()
    watcher = broker.mqtt("watcher")
    assert watcher.message().payload == b"late"
    until(lambda: broker.broker.metric("polycast_sessions") == 2, "the short session has ended")
    assert not broker.mqtt("short").connack.session_present


# --- queues, groups and bounds -------------------------------------------------------------------------


def test_a_share_group_keeps_messages_while_its_members_are_away(phoenix):
    broker = phoenix()
    for name in ("one", "two"):
        member = broker.mqtt(name)
        member.subscribe("$share/g/a", qos=1)
        member.drop()
    sender = broker.mqtt("sender")
    for number in range(10):
        sender.publish("a", str(number).encode(), 1)
    broker.again()
    member = broker.mqtt("two")
    assert [int(message.payload) for message in member.messages(10)] == list(range(10))


def test_who_never_acknowledges_fills_its_own_queue_only(phoenix):
    """R15: the window fills, the rest is on disk, the limit counts what it drops."""
    broker = phoenix(limits__stored_queue_messages=50)
    stuck = broker.mqtt("stuck")
    stuck.subscribe("a", qos=1)
    healthy = broker.mqtt("healthy")
    healthy.subscribe("a", qos=1)
    sender = broker.mqtt("sender")
    for number in range(100):
        assert sender.publish("a", str(number).encode(), 1).reason == 0
        assert healthy.message().payload == str(number).encode()
    dropped = broker.broker.metric("polycast_messages_dropped_total", reason="queue_full")
    assert dropped == 50
    broker.again()
    stuck = broker.mqtt("stuck")
    assert [int(message.payload) for message in stuck.messages(50)] == list(range(50))


def test_a_full_queue_may_drop_its_oldest(phoenix):
    broker = phoenix(limits__stored_queue_messages=10, limits__full_queue_drops="oldest")
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=1)
    reader.drop()
    sender = broker.mqtt("sender")
    for number in range(30):
        sender.publish("a", str(number).encode(), 1)
    broker.again()
    reader = broker.mqtt("reader")
    assert [int(message.payload) for message in reader.messages(10)] == list(range(20, 30))


def test_message_expiry_goes_on_while_the_broker_is_down(phoenix):
    """R20"""
    broker = phoenix()
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=1)
    reader.drop()
    sender = broker.mqtt("sender")
    sender.publish("a", b"short", 1, props={"message_expiry": 1})
    sender.publish("a", b"long", 1, props={"message_expiry": 1000})
    sender.publish("kept", b"short", 1, retain=True, props={"message_expiry": 1})
    broker.die()
    subprocess.run(["sleep", "1.2"], check=True)  # the time that passes is what is tested
    broker.rise()
    reader = broker.mqtt("reader")
    message = reader.message()
    assert message.payload == b"long"
    assert 900 < message.properties["message_expiry"] < 1000
    reader.subscribe("kept", qos=1)
    reader.nothing_before("kept")


def test_a_stop_in_good_order_loses_nothing_either(phoenix):
    broker = phoenix()
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=1)
    sender = broker.mqtt("sender")
    sender.publish("a", b"1", 1)
    assert reader.await_kind(mqtt.PUBLISH).payload == b"1"
    broker.broker.stop()
    broker.rise()
    message = broker.mqtt("reader").message()
    assert (message.payload, message.dup) == (b"1", True)


# --- the store itself -----------------------------------------------------------------------------------


def test_nothing_survives_without_persistence(phoenix):
    broker = phoenix(store__persistence="none")
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=1)
    broker.again()
    assert not broker.mqtt("reader").connack.session_present
    assert not list(broker.data.glob("journal*")) if broker.data.exists() else True


@pytest.mark.parametrize("durability", ["fsync", "interval(50ms)", "none"])
def test_the_start_line_and_a_metric_say_what_holds(phoenix, durability):
    broker = phoenix(store__durability=durability)
    assert f"durability {durability}" in broker.broker.log_text()
    name = durability.split("(")[0]
    assert broker.broker.metric("polycast_storage_info", durability=name) == 1
    broker.mqtt("reader").subscribe("a", qos=1)
    broker.broker.stop()
    broker.rise()
    assert broker.mqtt("reader").connack.session_present


def test_a_second_broker_on_the_same_data_is_refused(phoenix, tmp_path):
    broker = phoenix()
    command = [process.polycast(), "serve", "--data-dir", str(broker.data)]
    command += ["--mqtt", "127.0.0.1:0", "--stomp", "off", "--http", "off"]
    second = subprocess.run(command, env=process.plain_environment(), capture_output=True, text=True, timeout=60)
    assert second.returncode not in (0, 101)
    said = second.stdout + second.stderr
    assert str(broker.data) in said and str(broker.broker.process.pid) in said, said
    assert "panic" not in said


def test_a_newer_format_is_refused_with_a_word(phoenix):
    broker = phoenix()
    broker.mqtt("reader")
    broker.broker.stop()
    path = broker.data / "format"
    ours = path.read_text()
    path.write_text(ours.replace("format 1", "format 999"))
    life = broker.folder / "refused"
    life.mkdir()
    command = [process.polycast(), "serve", "--data-dir", str(broker.data), "--mqtt", "127.0.0.1:0"]
    refused = subprocess.run(command, env=process.plain_environment(), capture_output=True, text=True, timeout=60)
    said = refused.stdout + refused.stderr
    assert refused.returncode not in (0, 101)
    assert "999" in said and str(broker.data) in said, said
    path.write_text(ours)
    broker.rise()
    assert broker.mqtt("reader").connack.session_present


def test_files_are_the_owners_alone(phoenix):
    """S44"""
    broker = phoenix()
    broker.mqtt("reader")
    assert broker.data.stat().st_mode & 0o777 == 0o700
    for path in broker.data.rglob("*"):
        allowed = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 & ~allowed == 0, path


# --- R10: a full disk --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MiB. Only root may make one."""
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    place = tmp_path / "small"
    place.mkdir()
    options = f"size=16m,uid={os.getuid()},mode=700"
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    yield place
    subprocess.run([*as_root, "umount", "-l", str(place)], check=True)


def test_a_full_disk_refuses_what_must_be_stored_and_recovers(small_disk, phoenix):
    broker = phoenix(small_disk / "data", limits__store_free_min="0", store__segment_size="1MiB")
    keeper, live = broker.mqtt("keeper"), broker.mqtt("live", clean=True, props={})
    keeper.subscribe("a", qos=1)
    live.subscribe("live", qos=1)
    keeper.drop()
    sender = broker.mqtt("sender")
    body = bytes(50_000)
    taken = 0
    while (answer := sender.publish("a", taken.to_bytes(4) + body, 1)).reason == 0:
        taken += 1
        assert taken < 400, "the disk is never full"
    assert taken > 100, "it was full too early"
    assert answer.reason == 0x97
    # An MQTT 3.1.1 client cannot be told: it is disconnected without an acknowledgement.
    old = mqtt.Client.open(broker.broker.mqtt, 4)
    old.send(mqtt.publish("a", body, 1, 1, version=4))
    assert old.expect_closed() == []
    frames = broker.stomp()
    frames.send("SEND", {"destination": "/queue/x", "receipt": "1"}, body)
    assert frames.expect_error()
    web = broker.json()
    assert web.ask("publish", topic="a", data="x", qos=1)["type"] == "error"
    status, health = broker.broker.fetch("/healthz")
    assert status == 200 and json.loads(health)["status"] == "degraded" and "disk" in health
    assert broker.broker.metric("polycast_storage_full") == 1
    # Who needs no disk goes on, and so does who reads.
    sender.publish("live", b"yes", 1)
    assert live.message().payload == b"yes"
    broker.again()
    keeper = broker.mqtt("keeper")
    got = keeper.messages(taken)
    assert [int.from_bytes(message.payload[:4]) for message in got] == list(range(taken))
    sender = broker.mqtt("sender")

    def takes_again():
        return sender.publish("a", b"again", 1).reason == 0

    until(takes_again, "there is room again", 30)
    assert json.loads(broker.broker.fetch("/healthz")[1])["status"] == "ok"
    assert keeper.message().payload == b"again"


# --- R9, R31: damaged files ----------------------------------------------------------------------------------


def fill(broker: Phoenix, messages: int) -> None:
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=1)
    reader.drop()
    sender = broker.mqtt("sender")
    for number in range(messages):
        sender.publish("a", number.to_bytes(4) + bytes(2000), 1)
    broker.die()


def segments(broker: Phoenix) -> list[pathlib.Path]:
    return sorted((broker.data / "journal").glob("*.seg"))


def test_a_torn_end_is_cut_and_all_before_it_served(phoenix):
    broker = phoenix()
    fill(broker, 50)
    last = [path for path in segments(broker) if b"\xff" not in path.name.encode()][0]
    data = last.read_bytes()
    used = len(data.rstrip(b"\0"))
    last.write_bytes(data[: used - 100] + bytes(len(data) - used + 100))
    broker.rise()
    got = broker.mqtt("reader").messages(49)
    assert [int.from_bytes(message.payload[:4]) for message in got] == list(range(49))


def test_a_flipped_bit_costs_what_it_hits_and_is_reported(phoenix):
    broker = phoenix(store__segment_size="256KiB")
    fill(broker, 400)
    whole = broker.folder / "whole"
    shutil.copytree(broker.data, whole)
    first = segments(broker)[0]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 0x10
    first.write_bytes(data)
    broker.rise()
    reader = broker.mqtt("reader")
    broker.mqtt("sender").publish("a", (9999).to_bytes(4), 1)
    got = []
    while not got or got[-1] != 9999:
        got.append(int.from_bytes(reader.message().payload[:4]))
    lost = set(range(400)) - set(got)
    assert got == sorted(got) and len(lost) <= 1, f"lost {sorted(lost)[:20]}"
    assert first.name in broker.broker.log_text(), "the damaged file is named"
    assert broker.broker.metric("polycast_storage_damaged_total") >= 1


def test_an_index_of_a_long_journal_may_break(phoenix):
    """It is kept from the second start on, once the journal is long."""
    broker = phoenix(store__segment_size="256KiB")
    count = 5000
    fill(broker, count)
    index = broker.data / "index"
    assert len(segments(broker)) > 32 and not index.exists()
    broker.rise()
    broker.broker.stop()
    assert index.is_dir()
    broker.rise()
    broker.die()
    for path in index.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\x55" * 3000)
    broker.rise()
    assert "index" in broker.broker.log_text()
    got = broker.mqtt("reader").messages(count)
    assert [int.from_bytes(message.payload[:4]) for message in got] == list(range(count))


# --- tools ----------------------------------------------------------------------------------------------------


def data(*arguments: str, code: int = 0) -> str:
    """Runs `polycast data` and returns what it prints."""
    command = [process.polycast(), "data", *arguments]
    ran = subprocess.run(command, env=process.plain_environment(), capture_output=True, text=True, timeout=60)
    assert ran.returncode == code, f"{ran.returncode}: {ran.stdout}{ran.stderr}"
    return ran.stdout + ran.stderr


def test_data_can_be_looked_at_moved_and_served_again(phoenix, tmp_path):
    broker = phoenix()
    broker.mqtt("sender").publish("kept", b"value", 1, retain=True)
    fill(broker, 20)
    place = ["--data-dir", str(broker.data)]
    stats = json.loads(data("stats", "--json", *place))
    assert (stats["sessions"], stats["messages"], stats["retained"]) == (2, 20, 1), stats
    data("verify", *place)
    lines = tmp_path / "store.jsonl"
    data("export", *place, str(lines))
    kinds = [json.loads(line)["kind"] for line in lines.read_text().splitlines()]
    assert {"session", "subscription", "retained"} <= set(kinds), kinds
    other = tmp_path / "other"
    data("import", "--data-dir", str(other), str(lines))
    assert "not empty" in data("import", "--data-dir", str(other), str(lines), code=1)
    broker.data = other
    broker.rise()
    reader = broker.mqtt("reader")
    assert [int.from_bytes(message.payload[:4]) for message in reader.messages(20)] == list(range(20))
    reader.subscribe("kept", qos=1)
    assert reader.message().payload == b"value"


def test_verify_names_what_is_damaged(phoenix):
    broker = phoenix()
    fill(broker, 50)
    first = segments(broker)[0]
    text = bytearray(first.read_bytes())
    text[20_000] ^= 1
    first.write_bytes(text)
    said = data("verify", "--data-dir", str(broker.data), code=1)
    assert first.name in said, said


def test_data_of_a_running_broker_is_left_alone(phoenix):
    broker = phoenix()
    assert str(broker.broker.process.pid) in data("stats", "--data-dir", str(broker.data), code=1)


def test_damage_behind_a_stop_in_good_order_is_no_torn_end(phoenix):
    broker = phoenix()
    reader = broker.mqtt("reader")
    reader.subscribe("a", qos=1)
    reader.drop()
    sender = broker.mqtt("sender")
    for number in range(10):
        sender.publish("a", number.to_bytes(4) + bytes(2000), 1)
    broker.broker.stop()
    path = segments(broker)[0]
    content = bytearray(path.read_bytes())
    content[content.rfind((9).to_bytes(4) + bytes(100)) + 500] ^= 1
    path.write_bytes(content)
    assert path.name in data("verify", "--data-dir", str(broker.data), code=1)
    broker.rise()
    assert broker.broker.metric("polycast_storage_damaged_total") >= 1
    assert len(broker.mqtt("reader").messages(9)) == 9
