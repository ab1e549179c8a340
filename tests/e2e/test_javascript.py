"""The JavaScript client, in Node and in Chromium, also against a broker that is killed."""

import gzip
import json
import pathlib
import re
import subprocess
import tomllib

import pytest

from support import node, process, story
from support.waiting import unique

FOLDER = pathlib.Path(__file__).parents[2] / "broker" / "web" / "client"
OPTIONS = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
# From package.json of these tests: where it is missing, they fail.
TSC = [str(node.FOLDER / "node_modules" / ".bin" / "tsc"), *OPTIONS]
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


def test_the_types_fit():
    subprocess.run([*TSC, "client_types.mts"], cwd=node.FOLDER, check=True)


def test_the_check_of_the_types_can_fail(tmp_path):
    wrong = node.FOLDER / f"client_types_wrong_{tmp_path.name}.mts"
    try:
        text = (node.FOLDER / "client_types.mts").read_text()
        wrong.write_text(text + "\nclient.publish(7, 1);\n")
        done = subprocess.run([*TSC, wrong.name], cwd=node.FOLDER, capture_output=True, text=True)
        assert done.returncode != 0 and "TS2345" in done.stdout, done.stdout
    finally:
        wrong.unlink()


def test_the_package_can_be_published_and_imported_by_its_name(tmp_path):
    packed = subprocess.run(
        ["npm", "pack", "--json", "--pack-destination", str(tmp_path)], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    about = json.loads(packed.stdout)[0]
    files = {file["path"] for file in about["files"]}
    assert files == {"package.json", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "polycast.js", "polycast.d.ts"}
    assert about["name"] == "polycast" and about["size"] < 20_000
    package = json.loads((FOLDER / "package.json").read_text())
    assert not package.get("private") and package["types"] == "./polycast.d.ts"
    broker = tomllib.loads((process.ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert package["version"] == broker
    # As somebody else's project has it.
    there = tmp_path / "node_modules" / "polycast"
    there.mkdir(parents=True)
    subprocess.run(["tar", "xzf", about["filename"], "--strip-components=1", "-C", str(there)], cwd=tmp_path, check=True)
    (tmp_path / "page.mts").write_text("import { Polycast } from 'polycast';\nconst c: Polycast = new Polycast();\nconsole.log(typeof c.publish);\n")
    (tmp_path / "page.mjs").write_text("import { matches } from 'polycast';\nconsole.log(matches('a/#', 'a/b'));\n")
    subprocess.run([*TSC, "page.mts"], cwd=tmp_path, check=True)
    done = subprocess.run(["node", "page.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "true\n"


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
