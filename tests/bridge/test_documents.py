"""Configurations and commands about the bridge in README.md, docs/bridge.md and docs/quick-start.md, run as they stand there.

Only addresses differ: moto for AWS, ports of the system's choice, folders of the test's own.
"""

import json
import re
import subprocess

import boto3
import certificates
import pytest
import servers
from support import pages
from support.waiting import until
from test_http import call

PAGES = {"README.md": "toml", "docs/bridge.md": "toml", "docs/quick-start.md": "toml bridge"}
ACCOUNT = re.compile(r"https?://[\w.:-]+(?=/123456789012/)")


def found() -> list:
    return [
        pytest.param(block.text, id=f"{page}-{number}")
        for page, kind in PAGES.items()
        for number, block in enumerate(block for block in pages.blocks(f"../{page}") if block.kind == kind)
    ]


@pytest.fixture
def start(broker, moto, tmp_path):
    """Starts a bridge with a configuration of the documents."""
    started = []

    def start(text: str, **variables: str) -> servers.Bridge:
        running = servers.Bridge(tmp_path, configured(text, broker, moto, tmp_path), tmp_path / "bridge.log")
        started.append(running)
        running.start()
        until(lambda: running.fetch("/readyz")[0] == 200, "the bridge is connected to the broker", 30)
        return running

    yield start
    for running in started:
        running.stop()


def configured(text: str, broker, moto, folder):
    """Writes a configuration with the addresses that there are."""
    here = ACCOUNT.sub(moto.url, text)
    if "endpoint" not in here:
        here = re.sub(r"^(queue_url = .*)$", rf'\1\nendpoint = "{moto.url}"', here, flags=re.MULTILINE)
    here = here.replace("http://localhost:5000", moto.url).replace("127.0.0.1:1883", f"127.0.0.1:{broker.mqtt}")
    here = here.replace("0.0.0.0:8443", "127.0.0.1:0").replace("/var/lib/polycast-bridge", str(folder)).replace("/run/secrets", str(folder))
    if "[broker]" not in here:
        here += f'\n[broker]\nurl = "mqtt://127.0.0.1:{broker.mqtt}"\n'
    file = folder / "bridge.toml"
    file.write_text(f'{here}\n[admin]\nlisten = "127.0.0.1:0"\n')
    return file


def queue_of(text: str, moto):
    """The queue that a configuration names, made anew."""
    sqs = servers.aws(moto, "sqs")
    name = re.search(r'queue_url = ".*/([\w.-]+)"', text)[1]
    attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    for url in sqs.list_queues(QueueNamePrefix=name).get("QueueUrls", []):
        sqs.delete_queue(QueueUrl=url)
    return sqs, sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]


@pytest.mark.parametrize("text", found())
def test_the_configuration_does_what_the_page_says(text, start, moto, broker, subscriber, tmp_path, monkeypatch):
    kind = re.search(r'^kind = "(\w+)"', text, re.MULTILINE)[1]
    way = {"sqs": a_sink if "[sinks." in text else a_queue, "eventbridge": an_event_bus}[kind]
    way(text, start, moto, broker, subscriber, tmp_path, monkeypatch)


def a_queue(text, start, moto, _broker, subscriber, *_):
    """A message in the queue reaches the topic of the template."""
    sqs, url = queue_of(text, moto)
    reader = subscriber("orders/#")
    start(text)
    field = re.search(r"\$\{body\.(\w+)\}", text)[1]
    body = json.dumps({field: "42", "total": 7})
    sqs.send_message(QueueUrl=url, MessageBody=body)
    message = reader.next()
    assert (message.topic, message.payload.decode()) == ("orders/42/new", body)


def a_sink(text, start, moto, broker, *_):
    """A message of the topic reaches the queue, once for each identity, in the group of its topic."""
    sqs, url = queue_of(text, moto)
    start(text)
    until(lambda: publish(broker, "orders/7", "first", "1") > 0, "the sink has subscribed", 30)
    publish(broker, "orders/7", "again", "1")
    taken = []

    def received() -> bool:
        answer = sqs.receive_message(QueueUrl=url, AttributeNames=["All"], MaxNumberOfMessages=10, WaitTimeSeconds=1)
        taken.extend(answer.get("Messages", []))
        return bool(taken)

    until(received, "the queue has it", 30)
    assert [message["Body"] for message in taken] == ["first"], "deduplicated by its order-id"
    attributes = taken[0]["Attributes"]
    assert (attributes["MessageGroupId"], attributes["MessageDeduplicationId"]) == ("orders/7", "1")


def publish(broker, topic: str, body: str, order: str) -> int:
    """How many received it."""
    text = json.dumps({"topic": topic, "data": body, "qos": 1, "headers": {"order-id": order}}).encode()
    status, _, said = call(broker.http_url("/api/v1/publish"), text, content_type="application/json")
    assert status in (200, 202), said
    return json.loads(said)["receivers"]


def an_event_bus(text, start, _moto, _broker, subscriber, folder, monkeypatch):
    """Both ways in, by TLS: an API destination with its key, and PutEvents with its signature."""
    authority = certificates.Authority(folder)
    for file, name in zip(authority.issue("bus"), ("cert.pem", "key.pem"), strict=True):
        file.rename(folder / name)
    (folder / "key.pem").chmod(0o600)
    (folder / "api-key").write_text("correct-horse-battery\n")
    monkeypatch.setenv("PUTEVENTS_SECRET", "hush")
    reader = subscriber("events/#")
    bridge = start(text)
    url = f"https://localhost:{bridge.http}/events"
    envelope = {
        "version": "0", "id": "1", "source": "shop", "detail-type": "Paid", "account": "123456789012",
        "time": "2026-01-01T00:00:00Z", "region": "eu-west-1", "resources": [], "detail": {"total": 7},
    }
    command = ["curl", "-s", "--cacert", str(authority.file), "-o", "/dev/null", "-w", "%{http_code}", url, "-d", json.dumps(envelope)]
    key = ["-H", "x-api-key: correct-horse-battery"]
    assert [subprocess.run([*command, *more], capture_output=True, text=True, timeout=30).stdout for more in ([], key)] == ["401", "200"]
    assert reader.next().topic == "events/shop/Paid"
    client = boto3.client(
        "events", endpoint_url=url, region_name="eu-west-1", aws_access_key_id="AKEXAMPLE", aws_secret_access_key="hush",
        verify=str(authority.file),
    )
    answer = client.put_events(Entries=[{"Source": "shop", "DetailType": "Sent", "Detail": "{}"}])
    assert answer["FailedEntryCount"] == 0
    assert reader.next().topic == "events/shop/Sent"


def test_the_commands_of_the_page(broker, moto, tmp_path):
    """With the configuration below them; what `check-config` prints is what the page shows."""
    text = next(block.text for block in pages.blocks("bridge.md") if block.kind == "console")
    build, check, shown, run = text.splitlines()
    assert build == "$ cargo build --release -p bridge --bin polycast-bridge", "tests/run does this before, without --release"
    config = next(block.text for block in pages.blocks("bridge.md") if block.kind == "toml")
    queue_of(config, moto)
    configured(config, broker, moto, tmp_path)
    environment = servers.environment() | {"PATH": pages.environment()["PATH"]}
    done = subprocess.run(["bash", "-euc", check[2:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"{shown}\n"), done.stderr
    log = tmp_path / "run.log"
    with log.open("wb") as out:
        bridge = subprocess.Popen(["bash", "-euc", f"exec {run[2:]}"], cwd=tmp_path, env=environment, stdout=out, stderr=out)
    try:
        until(lambda: "bridge::run: open source=" in log.read_text(), "it takes what is in the queue", 30)
    finally:
        bridge.terminate()
        assert bridge.wait(30) == 0, log.read_text()
