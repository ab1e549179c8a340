"""The commands of docs/cli.md work as they stand there."""

import os
import re
import subprocess

from support import mqtt, process

PAGE = (process.ROOT / "docs" / "cli.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_each_command_works(own_broker, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "polycast").symlink_to(process.polycast())
    environment = process.plain_environment() | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "POLYCAST_URL": own_broker.http_url(""),
    }
    publisher = mqtt.Client.open(own_broker.mqtt)
    publisher.publish("rooms/1", b"warm", qos=1, retain=True)
    for command in COMMANDS:
        device = mqtt.Client.plain(own_broker.mqtt)
        device.login("sensor-1", clean=False, props={"session_expiry": 60})
        device.subscribe("$group/kitchen", "rooms/+")
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, cwd=tmp_path,
                              env=environment)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        device.close()
    assert len(COMMANDS) > 20
    assert (tmp_path / "polycast.bash").stat().st_size > 1000
