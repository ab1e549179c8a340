"""The JavaScript client, in Node and in Chromium, also against a broker that is killed."""

import gzip
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from support import node, process, story
from support.waiting import unique

FOLDER = pathlib.Path(__file__).parents[2] / "broker" / "web" / "client"
STORIES = [name for name in node.cases("client.mjs") if name != "survive"]


@pytest.mark.parametrize("case", STORIES)
def test_in_node(broker, case):
    node.run("client.mjs", case, broker.ws_url(), unique("js"))


def test_it_is_small_and_needs_nothing():
    text = (FOLDER / "polycast.js").read_bytes()
    assert len(gzip.compress(text, 9)) < 6000
    assert b"import " not in text.replace(b"import.meta", b"")
    package = json.loads((FOLDER / "package.json").read_text())
    assert "dependencies" not in package
    for name in package["files"]:
        assert (FOLDER / name).exists()


def test_what_is_served_is_the_file(broker):
    status, text = broker.fetch("/polycast.js")
    assert (status, text) == (200, (FOLDER / "polycast.js").read_text())


@pytest.mark.skipif(shutil.which("tsc") is None, reason="there is no TypeScript compiler")
def test_the_types_fit():
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    subprocess.run(["tsc", *options, "client_types.mts"], cwd=node.FOLDER, check=True)


def test_it_survives_a_kill_in_node(tmp_path):
    story.run(tmp_path, "client.mjs", "survive", "ws://ADDRESS/ws", "kill")


def test_it_survives_a_kill_in_chromium(tmp_path):
    story.run(tmp_path, "client_in_chromium.mjs", "http://ADDRESS", "kill")


def test_the_guide_works_as_it_stands(own_broker, tmp_path):
    page = (process.ROOT / "docs" / "javascript.md").read_text()
    blocks = re.findall(r"```js\n(.*?)```", page, re.DOTALL)
    imports = [line for line in blocks[0].splitlines() if line.startswith("import")]
    rest = "\n".join(blocks)
    for line in imports:
        rest = rest.replace(line, "")
    text = "\n".join(imports).replace("'polycast'", f"'{FOLDER / 'polycast.js'}'")
    text = text.replace("'ws'", f"'{node.FOLDER / 'node_modules' / 'ws' / 'wrapper.mjs'}'") + rest
    text = text.replace("localhost:8080", f"127.0.0.1:{own_broker.http}")
    script = tmp_path / "guide.mjs"
    script.write_text(text + "\nprocess.exit(0);\n")
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 1" in done.stdout and "for the kitchen: one soup" in done.stdout
