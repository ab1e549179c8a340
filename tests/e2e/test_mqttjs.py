"""MQTT.js, over TCP and over WebSocket, 3.1.1 and 5."""

import pytest

from support import node
from support.waiting import unique


# Mosquitto acknowledges what it then never delivers when more than its window is open.
MORE_THAN_STANDARD = {"many_open_at_once"}
CASES = [
    pytest.param(case, marks=() if case in MORE_THAN_STANDARD else pytest.mark.standard)
    for case in node.cases("mqttjs.mjs")
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize("transport", ["tcp", "ws"])
def test_mqttjs(broker, case, version, transport):
    url = f"mqtt://127.0.0.1:{broker.mqtt}" if transport == "tcp" else broker.ws_url("/mqtt")
    node.run("mqttjs.mjs", case, url, version, unique("mqttjs"))
