"""STOMP 1.0, 1.1 and 1.2 over TCP, frame by frame."""

import time

import pytest

from support import stomp
from support.waiting import unique, until

VERSIONS = ["1.0", "1.1", "1.2"]
ACKNOWLEDGING = ["client", "client-individual"]


@pytest.fixture
def client(broker):
    """Opens STOMP clients on the shared broker; they are closed afterwards."""
    opened = []

    def open_client(version="1.2", **headers):
        opened.append(stomp.Client.open(broker.stomp, version, **headers))
        return opened[-1]

    yield open_client
    for one in opened:
        one.close()


def bodies(client, count):
    return [client.message().body.decode() for _ in range(count)]


# --- connecting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offered, chosen",
    [("1.0", "1.0"), ("1.1", "1.1"), ("1.2", "1.2"), ("1.0,1.1,1.2", "1.2"), ("1.1,1.0", "1.1"), ("1.2,2.0", "1.2")],
)
def test_version_negotiation(broker, offered, chosen):
    raw = stomp.Client.plain(broker.stomp, chosen)
    raw.send("CONNECT", {"accept-version": offered, "host": "x"})
    assert raw.expect("CONNECTED")["version"] == chosen


def test_version_negotiation_without_accept_version_is_1_0(broker):
    raw = stomp.Client.plain(broker.stomp, "1.0")
    raw.send("CONNECT")
    connected = raw.expect("CONNECTED")
    assert connected.headers.get("version", "1.0") == "1.0"


def test_version_negotiation_with_nothing_in_common_is_refused(broker):
    raw = stomp.Client.plain(broker.stomp)
    raw.send("CONNECT", {"accept-version": "2.1,3.0", "host": "x"})
    error = raw.expect_error()
    assert {"1.0", "1.1", "1.2"} <= set(error["version"].replace(" ", "").split(","))


@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
def test_connected_says_who_and_what(broker, command):
    raw = stomp.Client.plain(broker.stomp)
    connected = raw.login(command)
    assert connected["version"] == "1.2"
    assert connected["session"] and connected["server"].lower().startswith("polycast")


def test_crlf_line_ends_are_taken_in_1_2(broker):
    raw = stomp.Client.plain(broker.stomp)
    raw.stream.sendall(stomp.encode("CONNECT", {"accept-version": "1.2", "host": "x"}, end=b"\r\n"))
    raw.expect("CONNECTED")
    topic = unique("crlf")
    raw.stream.sendall(
        stomp.encode("SUBSCRIBE", {"id": "0", "destination": f"/topic/{topic}", "receipt": "r"}, end=b"\r\n")
    )
    assert raw.expect("RECEIPT")["receipt-id"] == "r"


def test_second_connect_is_an_error(client):
    twice = client()
    twice.send("CONNECT", {"accept-version": "1.2", "host": "x"})
    twice.expect_error()


def test_disconnect_with_a_receipt_is_answered_then_closed(client):
    leaving = client()
    leaving.send("DISCONNECT", {"receipt": "bye"})
    assert [(frame.command, frame["receipt-id"]) for frame in leaving.expect_closed()] == [("RECEIPT", "bye")]


# --- heart-beats --------------------------------------------------------------------------------


def test_heart_beats_are_agreed_and_sent(client):
    beating = client(heart_beat="0,1000")
    assert int(beating.connected["heart-beat"].split(",")[0]) > 0
    until(lambda: _listen(beating) >= 2, "two heart-beats", 10)


def _listen(client):
    try:
        client._more()
    except TimeoutError:
        pass
    client.beats += client.input.count(b"\n")
    client.input = b""
    return client.beats


def test_a_client_that_misses_its_heart_beats_is_closed(client):
    begin = time.monotonic()
    silent = client(heart_beat="1000,0")
    assert int(silent.connected["heart-beat"].split(",")[1]) > 0
    silent.stream.settimeout(60)
    frames = silent.expect_closed()
    assert all(frame.command == "ERROR" for frame in frames)
    assert time.monotonic() - begin > 1


# --- sending and receiving ----------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_message_carries_what_its_version_wants(client, version):
    topic, both = unique("basic"), client(version)
    both.subscribe(f"/topic/{topic}", id="mine")
    both.publish(f"/topic/{topic}", "hello", content_type="text/plain", custom="x")
    message = both.message()
    assert message.body == b"hello"
    assert message["destination"] == f"/topic/{topic}" and message["message-id"]
    assert message["content-type"] == "text/plain" and message["custom"] == "x"
    assert message["content-length"] == "5"
    assert message.headers.get("subscription") == "mine"
    assert "ack" not in message.headers, "ack:auto needs none"


def test_destination_without_a_prefix_is_a_topic(client):
    topic, both = unique("bare"), client()
    both.subscribe(topic, id="bare")
    both.subscribe(f"/topic/{topic}", id="prefixed")
    both.publish(topic, "x")
    got = {(frame["subscription"], frame["destination"]) for frame in (both.message(), both.message())}
    assert got == {("bare", topic), ("prefixed", f"/topic/{topic}")}


def test_wildcards(client):
    topic, both = unique("wild"), client()
    both.subscribe(f"/topic/{topic}/+/x", id="plus")
    both.subscribe(f"/topic/{topic}/#", id="hash")
    both.publish(f"/topic/{topic}/1/x", "both")
    both.publish(f"/topic/{topic}/1/y", "hash")
    got = sorted((frame["subscription"], frame["destination"], frame.body) for frame in [both.message() for _ in "123"])
    assert got == [
        ("hash", f"/topic/{topic}/1/x", b"both"),
        ("hash", f"/topic/{topic}/1/y", b"hash"),
        ("plus", f"/topic/{topic}/1/x", b"both"),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_bodies_with_nul_bytes(client, version):
    topic, both = unique("nul"), client(version)
    body = b"\x00binary\x00\xff\x00"
    both.subscribe(f"/topic/{topic}")
    both.publish(f"/topic/{topic}", body, content_length=len(body))
    assert both.message().body == body


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_header_values_are_escaped(client, version):
    topic, both = unique("escape"), client(version)
    value = "a:b\nc\\d" + ("\r" if version == "1.2" else "")
    both.subscribe(f"/topic/{topic}")
    both.publish(f"/topic/{topic}", "", **{"na:me": value})
    assert both.message()["na:me"] == value


def test_header_values_are_not_escaped_in_1_0(client):
    topic, both = unique("escape"), client("1.0")
    both.subscribe(f"/topic/{topic}")
    both.publish(f"/topic/{topic}", "", custom="back\\nslash")
    assert both.message()["custom"] == "back\\nslash"


def test_repeated_headers_are_all_kept_and_the_first_counts(client):
    topic, both = unique("repeat"), client()
    both.subscribe(f"/topic/{topic}")
    both.send("SEND", [("destination", f"/topic/{topic}"), ("destination", "/topic/other"), ("k", "1"), ("k", "2")])
    message = both.message()
    assert message.all("k") == ["1", "2"]


def test_spaces_in_header_values_are_kept(client):
    topic, both = unique("space"), client()
    both.subscribe(f"/topic/{topic}")
    both.publish(f"/topic/{topic}", "", custom=" padded ")
    assert both.message()["custom"] == " padded "


@pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "BEGIN", "COMMIT"])
def test_receipts_come_for_every_frame_that_asks(client, command):
    both, topic = client(), unique("receipt")
    if command == "ACK":
        both.subscribe(f"/topic/{topic}", ack="client")
        both.publish(f"/topic/{topic}", "x")
        both.settle("ACK", both.message())
        return
    if command == "UNSUBSCRIBE":
        both.subscribe(f"/topic/{topic}")
    if command == "COMMIT":
        both.request("BEGIN", {"transaction": "t"})
    both.request(
        command,
        {
            "SEND": {"destination": f"/topic/{topic}"},
            "SUBSCRIBE": {"destination": f"/topic/{topic}", "id": "1"},
            "UNSUBSCRIBE": {"id": "0"},
            "BEGIN": {"transaction": "t"},
            "COMMIT": {"transaction": "t"},
        }[command],
    )


def test_receipts_come_in_order(client):
    both, topic = client(), unique("receipt")
    for number in range(100):
        both.send("SEND", {"destination": f"/topic/{topic}", "receipt": str(number)})
    assert [both.expect("RECEIPT")["receipt-id"] for _ in range(100)] == [str(number) for number in range(100)]


def test_unsubscribe_ends_deliveries(client):
    both, topic, mark = client(), unique("off"), unique("mark")
    both.subscribe(f"/topic/{topic}", id="a")
    both.subscribe(f"/topic/{mark}", id="b")
    both.request("UNSUBSCRIBE", {"id": "a"})
    both.publish(f"/topic/{topic}", "no")
    both.nothing_before(f"/topic/{mark}")


def test_two_subscriptions_get_a_copy_each(client):
    both, topic = client(), unique("two")
    both.subscribe(f"/topic/{topic}", id="a")
    both.subscribe(f"/topic/{topic}", id="b")
    both.publish(f"/topic/{topic}", "x")
    assert {both.message()["subscription"], both.message()["subscription"]} == {"a", "b"}


def test_retained(client):
    both, topic = client(), unique("kept")
    both.publish(f"/topic/{topic}", "last", retain="true")
    both.subscribe(f"/topic/{topic}")
    message = both.message()
    assert message.body == b"last" and message["retained"] == "true"
    both.publish(f"/topic/{topic}", "live", retain="true")
    assert "retained" not in both.message().headers


# --- acknowledging ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ACKNOWLEDGING)
def test_unacknowledged_messages_come_again_after_a_disconnect(client, version, mode):
    queue = f"/queue/{unique('again')}"
    first = client(version)
    first.subscribe(queue, ack=mode)
    sender = client()
    for number in range(3):
        sender.publish(queue, str(number))
    messages = [first.message() for _ in range(3)]
    assert all(frame.headers.get("redelivered", "false") == "false" for frame in messages)
    first.settle("ACK", messages[0])
    first.close()
    second = client(version)
    second.subscribe(queue, ack=mode)
    again = [second.message() for _ in range(2)]
    assert [frame.body for frame in again] == [b"1", b"2"]
    assert all(frame["redelivered"] == "true" and int(frame["delivery-count"]) >= 1 for frame in again)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode, left", [("client", []), ("client-individual", [b"0", b"1"])])
def test_acknowledging_is_cumulative_or_individual(client, version, mode, left):
    queue = f"/queue/{unique('cumulative')}"
    first = client(version)
    first.subscribe(queue, ack=mode)
    sender = client()
    for number in range(3):
        sender.publish(queue, str(number))
    first.settle("ACK", [first.message() for _ in range(3)][2])
    first.close()
    second = client()
    second.subscribe(queue)
    sender.publish(queue, "mark")
    got = []
    while (body := second.message().body) != b"mark":
        got.append(body)
    assert got == left


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_nack_makes_it_come_again(client, version):
    queue = f"/queue/{unique('nack')}"
    both = client(version)
    both.subscribe(queue, ack="client-individual")
    both.publish(queue, "x")
    both.settle("NACK", both.message())
    again = both.message()
    assert again.body == b"x" and again["redelivered"] == "true" and int(again["delivery-count"]) >= 1
    both.settle("ACK", again)
    both.nothing_before(queue)


def test_nack_without_requeue_drops_it(client):
    queue = f"/queue/{unique('nack')}"
    both = client()
    both.subscribe(queue, ack="client-individual")
    both.publish(queue, "x")
    both.settle("NACK", both.message(), requeue="false")
    both.nothing_before(queue)


def test_prefetch_count_bounds_what_is_open(client):
    queue = f"/queue/{unique('prefetch')}"
    worker, sender = client(), client()
    worker.subscribe(queue, ack="client-individual", prefetch_count=2)
    for number in range(5):
        sender.publish(queue, str(number))
    first = [worker.message(), worker.message()]
    worker.fence()
    assert worker.kept == [], "no more than two may be open"
    for frame in first:
        worker.settle("ACK", frame)
    assert bodies(worker, 2) == ["2", "3"]


def test_ack_of_what_is_not_open_is_an_error(client):
    both = client()
    both.subscribe(f"/topic/{unique('t')}", ack="client")
    both.send("ACK", {"id": "no-such-message", "receipt": "r"})
    assert both.expect_error()["receipt-id"] == "r"


# --- queues -------------------------------------------------------------------------------------


def test_queue_consumers_compete(client):
    queue = f"/queue/{unique('compete')}"
    workers = [client() for _ in range(3)]
    for worker in workers:
        worker.subscribe(queue, ack="client-individual")
    sender = client()
    for number in range(30):
        sender.publish(queue, str(number))
    got = []
    for worker in workers:
        worker.fence()
        share = [frame.body for frame in worker.kept]
        assert len(share) >= 5, "fair"
        got += share
    assert sorted(map(int, got)) == list(range(30))


def test_queue_keeps_messages_while_all_consumers_are_away(client):
    queue = f"/queue/{unique('kept')}"
    first = client()
    first.subscribe(queue)
    first.request("DISCONNECT")
    sender = client()
    for number in range(5):
        sender.publish(queue, str(number))
    second = client()
    second.subscribe(queue, ack="client")
    assert bodies(second, 5) == ["0", "1", "2", "3", "4"]


def test_queue_keeps_messages_from_before_its_first_consumer(client):
    queue = f"/queue/{unique('early')}"
    sender = client()
    sender.publish(queue, "early")
    late = client()
    late.subscribe(queue, ack="client")
    assert bodies(late, 1) == ["early"]


def test_share_header_makes_a_topic_compete(client):
    topic = unique("share")
    workers = [client(), client()]
    for worker in workers:
        worker.subscribe(f"/topic/{topic}", share="g")
    sender = client()
    for number in range(20):
        sender.publish(f"/topic/{topic}", str(number))
    got = []
    for worker in workers:
        worker.fence()
        got += [frame.body for frame in worker.kept]
    assert sorted(map(int, got)) == list(range(20))


def test_temp_queue_carries_the_answer(client):
    service, asker = client(), client()
    requests = f"/queue/{unique('requests')}"
    service.subscribe(requests)
    asker.subscribe("/temp-queue/answers", id="answers")
    asker.publish(requests, "question", reply_to="/temp-queue/answers", correlation_id="7")
    question = service.message()
    assert question["reply-to"] != "/temp-queue/answers", "a name that others can answer to"
    service.publish(question["reply-to"], "answer", correlation_id=question["correlation-id"])
    answer = asker.message()
    assert (answer.body, answer["correlation-id"], answer["subscription"]) == (b"answer", "7", "answers")


def test_temp_queues_of_two_connections_are_apart(client):
    one, two, service = client(), client(), client()
    requests = f"/queue/{unique('requests')}"
    service.subscribe(requests)
    for asker in (one, two):
        asker.subscribe("/temp-queue/a")
    one.publish(requests, "q", reply_to="/temp-queue/a")
    service.publish(service.message()["reply-to"], "for one")
    assert one.message().body == b"for one"
    two.publish(requests, "q", reply_to="/temp-queue/a")
    service.publish(service.message()["reply-to"], "for two")
    assert two.message().body == b"for two"


def test_durable_subscription_keeps_messages_while_away(client):
    topic, name = f"/topic/{unique('durable')}", unique("client")
    first = client(client_id=name)
    first.subscribe(topic, id="d", durable="true", ack="client-individual")
    first.request("DISCONNECT")
    sender = client()
    for number in range(3):
        sender.publish(topic, str(number))
    second = client(client_id=name)
    second.subscribe(topic, id="d", durable="true", ack="client-individual")
    assert bodies(second, 3) == ["0", "1", "2"]


# --- transactions -------------------------------------------------------------------------------


def test_transaction_commit_sends_all_in_order(client):
    topic, receiver, sender = f"/topic/{unique('tx')}", client(), client()
    receiver.subscribe(topic)
    sender.request("BEGIN", {"transaction": "t"})
    for number in range(3):
        sender.publish(topic, str(number), transaction="t")
    sender.publish(topic, "outside")
    assert receiver.message().body == b"outside"
    sender.request("COMMIT", {"transaction": "t"})
    assert bodies(receiver, 3) == ["0", "1", "2"]


def test_transaction_abort_sends_nothing(client):
    topic, both = f"/topic/{unique('tx')}", client()
    both.subscribe(topic)
    both.request("BEGIN", {"transaction": "t"})
    both.publish(topic, "no", transaction="t")
    both.request("ABORT", {"transaction": "t"})
    both.nothing_before(topic)


def test_transaction_is_aborted_by_a_disconnect(client):
    topic, receiver, sender = f"/topic/{unique('tx')}", client(), client()
    receiver.subscribe(topic)
    sender.request("BEGIN", {"transaction": "t"})
    sender.publish(topic, "no", transaction="t")
    sender.request("DISCONNECT")
    receiver.nothing_before(topic)


def test_transaction_holds_acks_and_nacks(client):
    queue = f"/queue/{unique('tx')}"
    worker = client()
    worker.subscribe(queue, ack="client-individual")
    worker.publish(queue, "one")
    worker.publish(queue, "two")
    one, two = worker.message(), worker.message()
    worker.request("BEGIN", {"transaction": "t"})
    worker.settle("ACK", one, transaction="t")
    worker.settle("NACK", two, transaction="t")
    worker.request("ABORT", {"transaction": "t"})
    worker.settle("ACK", one)
    worker.request("BEGIN", {"transaction": "u"})
    worker.settle("NACK", two, transaction="u")
    worker.request("COMMIT", {"transaction": "u"})
    again = worker.message()
    assert again.body == b"two" and again["redelivered"] == "true"


@pytest.mark.parametrize("command", ["COMMIT", "ABORT", "SEND"])
def test_transaction_that_never_began_is_an_error(client, command):
    both = client()
    both.send(command, {"transaction": "none", "destination": "/topic/t", "receipt": "r"})
    assert both.expect_error()["receipt-id"] == "r"


def test_transaction_begun_twice_is_an_error(client):
    both = client()
    both.request("BEGIN", {"transaction": "t"})
    both.send("BEGIN", {"transaction": "t", "receipt": "r"})
    assert both.expect_error()["receipt-id"] == "r"


def test_transactions_are_bounded(client):
    both = client()
    for number in range(16):
        both.request("BEGIN", {"transaction": str(number)})
    both.send("BEGIN", {"transaction": "one too many", "receipt": "r"})
    assert both.expect_error()["receipt-id"] == "r"


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command, headers",
    [
        ("SEND", {}),
        ("SUBSCRIBE", {"id": "0"}),
        ("SUBSCRIBE", {"destination": "/topic/t"}),
        ("SUBSCRIBE", {"id": "0", "destination": "/topic/t", "ack": "sometimes"}),
        ("SUBSCRIBE", {"id": "0", "destination": "/topic/a#b"}),
        ("UNSUBSCRIBE", {}),
        ("UNSUBSCRIBE", {"id": "never"}),
        ("ACK", {}),
        ("BEGIN", {}),
        ("SEND", {"destination": "/topic/a/#"}),
        ("NONSENSE", {}),
    ],
)
def test_errors_name_the_receipt_and_close_at_once(client, command, headers):
    both = client()
    both.send(command, headers | {"receipt": "r-77"})
    begin = time.monotonic()
    error = both.expect_error()
    assert error["receipt-id"] == "r-77"
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_subscribe_without_id_is_refused(client, version):
    both = client(version)
    both.send("SUBSCRIBE", {"destination": "/topic/t"})
    assert b"header id" in both.expect_error().body


def test_subscribe_without_id_is_allowed_in_1_0(client):
    topic, both = f"/topic/{unique('noid')}", client("1.0")
    both.request("SUBSCRIBE", {"destination": topic})
    both.publish(topic, "x")
    assert both.message().body == b"x"
    both.request("UNSUBSCRIBE", {"destination": topic})
