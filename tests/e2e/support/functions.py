"""A local functions server: Lambda's Invoke API and webhooks, answered by what a test gives it."""

import http.server
import json
import queue
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

from .waiting import PATIENCE, until

KEY, SECRET = "AKIAFUNCTIONSTEST", "the-secret-of-the-functions"
LOOPBACK = {"functions__private_networks": "127.0.0.0/8, ::1"}


class Failure(Exception):
    """A function that fails: what Lambda says of it."""

    def __init__(self, message: str, kind: str = "Error"):
        super().__init__(message)
        self.value = {"errorMessage": message, "errorType": kind}


@dataclass
class Raw:
    """An answer as it is to go on the wire."""

    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)


@dataclass
class Call:
    """One call of a function."""

    name: str
    event: dict
    headers: dict
    body: bytes
    path: str

    @property
    def route(self) -> str:
        return self.event["requestContext"]["routeKey"]


class Server:
    """Answers each call with `functions[name](event)`, on threads of its own.

    Lambda functions are called by their names, webhooks by their paths (without the slash).
    """

    def __init__(self, port: int = 0, **functions):
        self.functions = functions
        self.calls: list[Call] = []
        self._new: queue.Queue[Call] = queue.Queue()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                answer = outer._answer(self.path, dict(self.headers.items()), body)
                try:
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(answer.body)))
                    self.end_headers()
                    self.wfile.write(answer.body)
                except ConnectionError:
                    pass

            def log_message(self, *_):
                pass

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Listener(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def _answer(self, path: str, headers: dict, body: bytes) -> Raw:
        parts = urllib.parse.urlsplit(path).path.strip("/").split("/")
        is_lambda = parts[:2] == ["2015-03-31", "functions"]
        name = urllib.parse.unquote(parts[2]) if is_lambda else parts[-1]
        headers = {key.lower(): value for key, value in headers.items()}
        try:
            event = json.loads(body)
        except ValueError:
            event = {}
        event = event if isinstance(event, dict) else {}
        call = Call(name, event, headers, body, path)
        self.calls.append(call)
        self._new.put(call)
        if name not in self.functions:
            return Raw(404, b"{}", {"x-amzn-ErrorType": "ResourceNotFoundException"})
        try:
            value = self.functions[name](event)
        except Failure as failure:
            if not is_lambda:
                return Raw(500)
            body = json.dumps(failure.value).encode()
            return Raw(200, body, {"X-Amz-Function-Error": "Unhandled"})
        if isinstance(value, Raw):
            return value
        if headers.get("x-amz-invocation-type") == "Event":
            return Raw(202)
        return Raw(200, json.dumps(value).encode(), {"content-type": "application/json"})

    def next(self, kind: str | None = None) -> Call:
        """The next call; with a kind, the next of that event type."""
        end = time.monotonic() + PATIENCE
        while True:
            call = self._new.get(timeout=max(end - time.monotonic(), 0.001))
            context = call.event.get("requestContext", {})
            if kind in (None, context.get("eventType"), call.event.get("eventType")):
                return call

    def of(self, kind: str) -> list[Call]:
        """All calls of an event type so far."""
        def is_it(call):
            return kind in (call.event.get("requestContext", {}).get("eventType"), call.event.get("eventType"))

        return [call for call in list(self.calls) if is_it(call)]

    def until_called(self, count: int, kind: str) -> list[Call]:
        until(lambda: len(self.of(kind)) >= count, f"{count} calls of {kind}, there are {len(self.of(kind))}")
        return self.of(kind)

    def close(self) -> None:
        """Refuses connections from now on."""
        self._server.shutdown()
        self._server.server_close()


def lambda_target(server: Server, name: str, **more) -> dict:
    """A target that is a Lambda function of the server's."""
    return {"name": name, "lambda": name, "endpoint": server.url, "region": "eu-west-1",
            "access_key": KEY, "secret_key": "env:HOME"} | more


def webhook(server: Server, name: str, **more) -> dict:
    return {"name": name, "url": f"{server.url}/{name}"} | more


def settings(targets: list[dict], routes: dict | None = None, topics=(), **more) -> dict:
    """Settings of a broker with these functions. A route is a target's name, or a table."""
    entries = []
    for key, route in (routes or {}).items():
        entries.append({"key": key} | ({"target": route} if isinstance(route, str) else route))
    return LOOPBACK | {
        "functions__targets": json.dumps(targets),
        "functions__routes": json.dumps(entries),
        "functions__topics": json.dumps(list(topics)),
        "functions__retry_base": "10ms",
        "functions__breaker_time": "50ms",
    } | {f"functions__{key}": value for key, value in more.items()}
