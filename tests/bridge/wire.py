"""A small server of an AWS service: signed JSON calls over HTTP, answered by methods of their names."""

import http.server
import json
import threading

LOOPBACK = "127.0.0.1"


class Refusal(Exception):
    """An answer with a type and status 400."""


class Service:
    """Stands for a service that keeps what it has, as on a disk, while it does not listen."""

    name = ""
    host = LOOPBACK

    def __init__(self):
        self.lock = threading.Condition()
        self.server = None
        self.port = 0
        self.callers: set[str] = set()
        """The access keys of those who called."""
        self.start()

    def start(self) -> None:
        """Listens, again at the same port."""
        world = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                call = self.headers["X-Amz-Target"].split(".")[1]
                assert f"/{world.name}/aws4_request" in self.headers["Authorization"]
                world.callers.add(self.headers["Authorization"].split("Credential=")[1].split("/")[0])
                try:
                    with world.lock:
                        status, answer = 200, getattr(world, call)(body)
                except Refusal as refusal:
                    status, answer = 400, {"__type": str(refusal), "message": "no"}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 64
            daemon_threads = True

            def handle_error(self, *_):
                """Whoever called has gone."""

        self.server = Server((LOOPBACK, self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"
