"""The commands of docs/http.md do what the page says: each is answered, and none by a fault of the broker."""

import re
import subprocess

from support import mqtt, process

PAGE = (process.ROOT / "docs" / "http.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]

# The page's client is there, its connection is not.
EXPECTED = {"/connections/4f2a9b10c3de-7": "410", "/@connections/4f2a9b10c3de-7": "410"}


def test_the_page_has_a_command_for_each_operation(broker):
    import json

    paths = json.loads(broker.fetch("/api/openapi.json")[1])["paths"]
    assert len(COMMANDS) >= sum(len(methods) for methods in paths.values()) - 2


def test_each_command_works(own_broker):
    for command in COMMANDS:
        device = None
        if "sensor-1" in command:
            # Each finds it, whatever the one before has done to it.
            device = mqtt.Client.plain(own_broker.mqtt)
            device.login("sensor-1", clean=False, props={"session_expiry": 60})
            device.subscribe("$group/kitchen", "rooms/+")
        line = command.replace("localhost:8080", f"localhost:{own_broker.http}")
        line = line.replace("curl ", "curl -w '\\n%{http_code}' ", 1)
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20)
        status = done.stdout.rsplit("\n", 1)[-1]
        wanted = next((status for part, status in EXPECTED.items() if part in command), None)
        assert status == wanted if wanted else status in ("200", "202", "204"), (command, done.stdout)
        if device:
            device.close()
