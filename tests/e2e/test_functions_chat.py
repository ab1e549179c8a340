"""The chat of the guides (tests/chat) against Polycast: nothing but the endpoint is configured."""

import asyncio
import importlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading

import pytest
from websockets.asyncio.client import connect

from support import functions, process
from support.functions import Failure, Server, lambda_target, settings
from support.tls import Authority
from support.waiting import PATIENCE, until

CHAT = process.ROOT / "tests" / "chat"
HANDLERS = ("connect", "disconnect", "sendmessage")


class Python:
    """Runs the handlers in Python here."""

    def __init__(self, folder):
        os.environ["CONNECTIONS_TABLE"] = str(folder / "connections.db")
        sys.path.insert(0, str(CHAT / "python"))
        for name in ("table", *HANDLERS):
            sys.modules.pop(name, None)
        self.modules = {name: importlib.import_module(name) for name in HANDLERS}
        self.table = importlib.import_module("table")

    def call(self, name, event):
        try:
            return self.modules[name].handler(event, None)
        except Exception as error:
            raise Failure(str(error), type(error).__name__) from error

    def connections(self):
        return self.table.scan()

    def stop(self):
        sys.path.remove(str(CHAT / "python"))


class Node:
    """Runs the handlers in Node in a process of their own."""

    def __init__(self, folder):
        self.table = folder / "connections"
        os.environ["CONNECTIONS_TABLE"] = str(self.table)
        script = process.ROOT / "tests" / "e2e" / "node" / "lambda.mjs"
        self.process = subprocess.Popen(
            ["node", "--no-warnings", str(script), str(CHAT / "node")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lock = threading.Lock()

    def call(self, name, event):
        with self.lock:
            self.process.stdin.write(json.dumps({"name": name, "event": event}) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        if "failure" in answer:
            raise Failure(answer["failure"]["errorMessage"], answer["failure"]["errorType"])
        return answer["value"]

    def connections(self):
        return sorted(path.name for path in self.table.iterdir()) if self.table.exists() else []

    def stop(self):
        self.process.kill()
        self.process.wait()


class Client:
    """A client in the loop of a thread. Not the library's synchronous one: that reads and writes one TLS socket
    on two threads, which Python's ssl module bears from 3.13 on; before, a request is lost now and then."""

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def __init__(self, url, context):
        async def begin():
            return await connect(url, ssl=context, compression=None, open_timeout=PATIENCE)

        self.socket = self._run(begin())

    def send(self, text):
        self._run(self.socket.send(text))

    def recv(self, patience):
        return self._run(asyncio.wait_for(self.socket.recv(), patience))

    def close(self):
        self._run(self.socket.close())

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(3 * PATIENCE)


class Chat:
    """A broker with the chat's functions."""

    def __init__(self, handlers, authority, start, folder):
        self.handlers = handlers
        self.server = Server(**{f"chat-{name}": lambda event, name=name: handlers.call(name, event)
                                for name in HANDLERS})
        targets = [lambda_target(self.server, f"chat-{name}") for name in HANDLERS]
        routes = {"$connect": "chat-connect", "$disconnect": "chat-disconnect", "sendmessage": "chat-sendmessage"}
        self.settings = authority.settings(**settings(targets, routes))
        self.start = lambda: start("--https", "127.0.0.1:0", data=folder / "data", **self.settings)
        self.broker = self.start()
        self.context = ssl.create_default_context(cafile=str(authority.ca))

    def join(self):
        url = f"wss://localhost:{self.broker.https}/prod"
        return Client(url, self.context)


def say(client, text):
    client.send(json.dumps({"action": "sendmessage", "data": text}))


@pytest.fixture(params=[Python, Node])
def chat(request, start_broker, tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    for name, value in {
        "AWS_ACCESS_KEY_ID": functions.KEY, "AWS_SECRET_ACCESS_KEY": functions.SECRET,
        "AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-1",
        # The test's own authority; at home the certificate is one that everybody trusts.
        "AWS_CA_BUNDLE": str(authority.ca), "NODE_EXTRA_CA_CERTS": str(authority.ca),
    }.items():
        monkeypatch.setenv(name, value)
    handlers = request.param(tmp_path)
    chat = Chat(handlers, authority, start_broker, tmp_path)
    yield chat
    handlers.stop()
    chat.server.close()


def test_everybody_hears_what_one_says(chat):
    clients = [chat.join() for _ in range(3)]
    assert len(chat.handlers.connections()) == 3
    say(clients[0], "hello")
    assert [client.recv(PATIENCE) for client in clients] == ["hello"] * 3
    clients[1].close()
    until(lambda: len(chat.handlers.connections()) == 2, "who leaves is forgotten")
    say(clients[2], "who is there?")
    assert [clients[at].recv(PATIENCE) for at in (0, 2)] == ["who is there?"] * 2
    # Anything else has no route.
    clients[0].send("nonsense")
    assert json.loads(clients[0].recv(PATIENCE))["message"] == "Forbidden"


def test_an_identifier_that_is_gone_is_deleted(chat):
    client = chat.join()
    event = {"requestContext": {"connectionId": "0123456789ab-99999"}}
    chat.handlers.call("connect", event)
    assert len(chat.handlers.connections()) == 2
    say(client, "hello")
    assert client.recv(PATIENCE) == "hello"
    until(lambda: len(chat.handlers.connections()) == 1, "410 deletes it")


def test_after_a_crash_the_table_is_right_again(chat):
    clients = [chat.join() for _ in range(3)]
    before = set(chat.handlers.connections())
    chat.broker.signal(signal.SIGKILL)
    chat.broker.process.wait(10)
    chat.broker.stopped = True
    assert set(chat.handlers.connections()) == before
    chat.broker = chat.start()
    until(lambda: chat.handlers.connections() == [], "those that were cut off are told of")
    client = chat.join()
    say(client, "again")
    assert client.recv(PATIENCE) == "again"
    del clients
