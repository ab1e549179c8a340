"""Credentials by AWS's usual chain: each of its ways gives the bridge a key, and a queue sees which."""

import datetime
import json
import shlex
import sys

import pytest
import servers
from answering import Answer, Answering
from queues import Sqs
from servers import until

REGION = {"AWS_REGION": "us-east-1"}


def answers(pages):
    """A server that gives texts by their paths."""

    def answer(call):
        text = pages.get(call.path)
        # A token of the instance's service says how long it is good for.
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        return Answer(404 if text is None else 200, (text or "").encode(), headers)

    return Answering(answer)


def session(key):
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    end = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(
        {"Code": "Success", "Type": "AWS-HMAC", "Version": 1, "AccessKeyId": key, "SecretAccessKey": "s", "SessionToken": "t", "Token": "t"}
        | {"Expiration": end, "LastUpdated": end}
    )


def by_environment(_folder, _moto, _serve):
    return {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}, "AKENV"


def by_profile(folder, _moto, _serve):
    (folder / "credentials").write_text("[polycast]\naws_access_key_id = AKPROFILE\naws_secret_access_key = s\n")
    return {"AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"), "AWS_PROFILE": "polycast"}, "AKPROFILE"


def by_process(folder, _moto, _serve):
    program = folder / "give.py"
    program.write_text(f"print({session('AKPROCESS')!r})\n")
    command = shlex.join([sys.executable, str(program)])
    (folder / "config").write_text(f"[profile polycast]\ncredential_process = {command}\n")
    return {"AWS_CONFIG_FILE": str(folder / "config"), "AWS_PROFILE": "polycast"}, "AKPROCESS"


def by_web_identity(folder, moto, _serve):
    (folder / "token").write_text("a.b.c")
    role = "arn:aws:iam::123456789012:role/bridge"
    given = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "token"), "AWS_ROLE_ARN": role, "AWS_ENDPOINT_URL_STS": moto.url}
    return given, "ASIA"


def by_container(_folder, _moto, serve):
    server = serve({"/role": session("AKCONTAINER")})
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/role"}, "AKCONTAINER"


def by_instance(_folder, _moto, serve):
    roles = "/latest/meta-data/iam/security-credentials/"
    extended = roles.replace("credentials/", "credentials-extended/")
    pages = {"/latest/api/token": "token"}
    for path in (roles, extended):
        pages |= {path: "bridge", f"{path}bridge": session("AKINSTANCE")}
    server = serve(pages)
    given = {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}
    return given, "AKINSTANCE"


@pytest.fixture
def serve():
    started = []

    def start(pages):
        started.append(answers(pages))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.mark.parametrize("way", [by_environment, by_profile, by_process, by_web_identity, by_container, by_instance])
def test_the_chain(way, tmp_path, moto, serve, bridge, subscriber):
    given, expected = way(tmp_path, moto, serve)
    queue = Sqs(fifo=False)
    try:
        reader = subscriber("t")
        url = f"{queue.url}/1/q"
        source = f'[sources.s]\nkind = "sqs"\nendpoint = "{queue.url}"\nqueue_url = "{url}"\nwait_time = "1s"\ntopic = "t"\n'
        running = bridge(source, start=False)
        plain = {name: value for name, value in servers.environment().items() if not name.startswith("AWS_")}
        # Nothing of the machine's own counts.
        none = {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_CONFIG_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true"}
        running.environment = plain | none | REGION | given
        running.start()
        with queue.lock:
            queue.SendMessageBatch({"Entries": [{"Id": "0", "MessageBody": "x"}]})
        assert reader.next().payload == b"x"
        until(lambda: not queue.groups, "it is deleted")
        # Who asks for a role is given another key each time.
        assert queue.callers and all(caller.startswith(expected) for caller in queue.callers), queue.callers
    finally:
        queue.stop()
