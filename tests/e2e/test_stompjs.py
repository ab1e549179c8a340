"""@stomp/stompjs over WebSocket, 1.0 to 1.2."""

import pytest

from support import node
from support.waiting import unique


@pytest.mark.parametrize("case", node.cases("stompjs.mjs"))
@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_stompjs(broker, case, version):
    node.run("stompjs.mjs", case, broker.ws_url("/stomp"), version, unique("stompjs"))
