"""Runs a script that says when the broker is to be killed and started again."""

import subprocess

from . import node, process


def run(tmp_path, script: str, *arguments: str) -> None:
    """Runs a script against a broker of its own; `ADDRESS` in its arguments is where that has HTTP.

    After the line `kill` the broker is killed -9, and after `start` it is there again on the same ports.
    """
    ports = [f"{process.LOOPBACK}:{process.free_port()}" for _ in range(3)]
    flags = [word for name, port in zip(("mqtt", "stomp", "http"), ports) for word in (f"--{name}", port)]
    broker = process.start(tmp_path, *flags)
    arguments = [argument.replace("ADDRESS", ports[2]) for argument in arguments]
    story = subprocess.Popen(
        ["node", script, *arguments], cwd=node.FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = []
    try:
        for line in story.stdout:
            said.append(line)
            if line == "kill\n":
                broker.process.kill()
                broker.process.wait()
            if line == "start\n":
                broker = process.start(tmp_path, *flags)
        assert story.wait(30) == 0, "".join(said)
        assert ["kill\n", "start\n"] == said[:2]
    finally:
        story.kill()
        broker.stop()
