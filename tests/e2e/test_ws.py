"""Node's ws package, speaking the JSON subprotocol."""

import pytest

from support import node
from support.waiting import unique


@pytest.mark.parametrize("case", node.cases("ws.mjs"))
def test_ws(broker, case):
    node.run("ws.mjs", case, broker.ws_url(), unique("ws"))
