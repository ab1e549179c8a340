"""Function routes: WebSocket clients whose connections and messages go to Lambda functions and webhooks."""

import datetime
import hashlib
import hmac
import json
import os
import socket
import threading
import urllib.parse

import boto3
import httpx
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support import functions, json_client, tokens, websocket
from support.functions import Failure, Raw, Server, lambda_target, settings, webhook
from support.waiting import until
from support.websocket import TEXT, WebSocket


@pytest.fixture
def serve():
    """Starts functions servers."""
    opened = []

    def start(**functions):
        server = Server(**functions)
        opened.append(server)
        return server

    yield start
    for server in opened:
        server.close()


ALL = ("$connect", "$disconnect", "$default")


def ok(_event):
    return {"statusCode": 200}


def echo(event):
    return {"statusCode": 200, "body": f"{event['requestContext']['routeKey']}:{event['body']}"}


def open_client(broker, *protocols, path="/prod"):
    return WebSocket(broker.http, *protocols, path=path, opcode=TEXT)


def ask(client, text: str) -> str:
    client.send(TEXT, text)
    return client.read_message()[1].decode()


@pytest.fixture(params=["lambda", "webhook"])
def target(request):
    return lambda_target if request.param == "lambda" else webhook


def test_a_connection_in_the_shape_of_api_gateway(serve, start_broker, target):
    server = serve(chat=ok)
    broker = start_broker(**settings([target(server, "chat")], {key: "chat" for key in ALL}))
    client = WebSocket(broker.http, path="/prod?room=1&room=2", opcode=TEXT)
    event = server.next().event
    context = event["requestContext"]
    assert (context["routeKey"], context["eventType"], context["stage"]) == ("$connect", "CONNECT", "prod")
    assert context["domainName"] == f"127.0.0.1:{broker.http}"
    assert context["identity"]["sourceIp"] == "127.0.0.1"
    assert event["queryStringParameters"] == {"room": "2"}
    assert event["multiValueQueryStringParameters"] == {"room": ["1", "2"]}
    assert event["headers"]["Sec-WebSocket-Version"] == "13"
    assert event["headers"]["Host"] == f"127.0.0.1:{broker.http}"
    assert "body" not in event
    client.send(TEXT, '{"action":"other","n":1}')
    message = server.next().event
    assert message["requestContext"]["connectionId"] == context["connectionId"]
    assert message["requestContext"]["routeKey"] == "$default"
    assert message["requestContext"]["messageId"]
    assert (message["body"], message["isBase64Encoded"]) == ('{"action":"other","n":1}', False)
    assert "headers" not in message
    client.send(websocket.CLOSE, websocket.close_body(1000))
    gone = server.next().event["requestContext"]
    assert (gone["eventType"], gone["connectionId"]) == ("DISCONNECT", context["connectionId"])
    assert gone["disconnectStatusCode"] == 1000


def test_routes_are_selected_and_answers_go_back(serve, start_broker, target):
    server = serve(f=echo)
    table = {"target": "f", "response": True}
    routes = {"send/7": table, "$default": table}
    selection = "${request.body.action}/${request.body.n}"
    broker = start_broker(**settings([target(server, "f")], routes, route_selection=selection))
    client = open_client(broker)
    text = '{"action":"send","n":7}'
    assert ask(client, text) == f"send/7:{text}"
    assert ask(client, "plain text") == "$default:plain text"
    assert ask(client, '{"n":8}') == '$default:{"n":8}'
    assert [call.route for call in server.calls] == ["send/7", "$default", "$default"]
    # A client may not call the reserved routes.
    selection = "$request.body.action"
    routes |= {"$disconnect": "f"}
    broker = start_broker(**settings([target(server, "f")], routes, route_selection=selection))
    client = open_client(broker)
    assert ask(client, '{"action":"$disconnect"}').startswith("$default:")


def test_without_a_route_the_client_is_told(serve, start_broker, target):
    server = serve(f=echo)
    broker = start_broker(**settings([target(server, "f")], {"send": "f"}))
    client = open_client(broker)
    told = json.loads(ask(client, "x"))
    assert told["message"] == "Forbidden"
    assert told["connectionId"] and told["requestId"]
    # Without `response` the answer is nobody's.
    client.send(TEXT, '{"action":"send"}')
    server.next()
    assert json.loads(ask(client, "x"))["message"] == "Forbidden"


def test_binary_messages_are_refused(serve, start_broker):
    server = serve(f=echo)
    broker = start_broker(**settings([webhook(server, "f")], {"$default": "f"}))
    client = open_client(broker)
    client.send(websocket.BINARY, b"\x00")
    assert client.expect_end().code == 1003


def refusal(broker, *protocols, path="/prod", extra=None):
    answer = websocket.handshake(broker.http, list(protocols), path, extra)
    return answer.status, answer.body.decode()


def test_connect_refuses_with_its_status(serve, start_broker, target):
    says = {}
    server = serve(f=lambda event: says["answer"](event))
    broker = start_broker(**settings([target(server, "f")], {"$connect": "f"}))

    def refused(answer):
        says["answer"] = answer
        return refusal(broker)

    assert refused(lambda _: {"statusCode": 403, "body": "no"}) == (403, "no")
    assert refused(lambda _: {"statusCode": 401})[0] == 401
    assert refused(lambda _: {"statusCode": 302})[0] == 502

    def fail(_):
        raise Failure("boom")

    assert refused(fail)[0] == 502
    assert refused(lambda _: Raw(503, b""))[0] == 502
    assert refused(lambda _: {"statusCode": 200, "groups": "x"})[0] == 502
    assert refused(lambda _: Raw(302, b"", {"Location": "http://127.0.0.1:1/"}))[0] == 502
    # The broker itself is none the worse.
    says["answer"] = ok
    open_client(broker).close()


def test_connect_chooses_the_subprotocol(serve, start_broker):
    def connect(event):
        offered = event["headers"].get("Sec-WebSocket-Protocol", "")
        return {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "chat"} if "chat" in offered else {}}

    server = serve(f=connect)
    broker = start_broker(**settings([webhook(server, "f")], {"$connect": "f"}, subprotocols="chat,other"))
    assert open_client(broker, "chat").handshake.headers["sec-websocket-protocol"] == "chat"
    assert "sec-websocket-protocol" not in open_client(broker, "other").handshake.headers
    assert "sec-websocket-protocol" not in open_client(broker).handshake.headers
    assert len(server.of("CONNECT")) == 3
    # What others speak stays what it was.
    json_client.Client.open(broker.http).close()
    assert open_client(broker, "mqtt").handshake.headers["sec-websocket-protocol"] == "mqtt"
    assert refusal(broker, "third")[0] == 400
    assert len(server.of("CONNECT")) == 3


def test_connect_says_who_it_is_and_what_is_kept(serve, start_broker):
    def function(event):
        context = event["requestContext"]
        if context["routeKey"] == "$connect":
            return {"statusCode": 200, "user": "ann", "groups": ["red"], "state": {"count": 0}}
        count = context["state"]["count"] + 1
        return {"statusCode": 200, "body": str(count), "state": {"count": count}}

    server = serve(f=function)
    routes = {"$connect": "f", "$default": {"target": "f", "response": True}, "$disconnect": "f"}
    broker = start_broker(**settings([webhook(server, "f")], routes))
    client = open_client(broker)
    assert [ask(client, "x") for _ in range(3)] == ["1", "2", "3"]
    for target in ('"user":"ann"', '"group":"red"', '"broadcast":true'):
        post(broker, "/api/v1/publish", "{" + target + ',"data":"hello"}')
        assert client.read_message() == (TEXT, b"hello")
    client.close()
    gone = server.next("DISCONNECT").event["requestContext"]
    assert gone["state"] == {"count": 3}
    assert gone["disconnectStatusCode"] == 1005


def post(broker, path, body, headers=None):
    import urllib.request

    headers = {"content-type": "application/json"} | (headers or {})
    request = urllib.request.Request(broker.http_url(path), body.encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status


def test_functions_answer_by_the_management_api(serve, start_broker):
    def function(event):
        context = event["requestContext"]
        management = boto3.client(
            "apigatewaymanagementapi", endpoint_url=f"http://{context['domainName']}/{context['stage']}",
            region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="y")
        try:
            management.post_to_connection(ConnectionId=context["connectionId"], Data=b"from the function")
        except management.exceptions.GoneException:
            gone.append(context["routeKey"])
        return {"statusCode": 200}

    gone = []
    server = serve(f=function)
    broker = start_broker(**settings([lambda_target(server, "f")], {key: "f" for key in ALL}))
    client = open_client(broker)
    assert gone == ["$connect"], "the connection does not exist yet"
    assert ask(client, "x") == "from the function"
    client.close()
    until(lambda: gone == ["$connect", "$disconnect"], "the connection is gone")


def test_invocations_are_signed_as_botocore_signs(serve, start_broker):
    server = serve(**{"arn:aws:lambda:eu-west-1:1:function:f": ok})
    arn = "arn:aws:lambda:eu-west-1:1:function:f"
    target = lambda_target(server, "f", qualifier="live 1", headers={"X-Own": "a  b"}) | {"lambda": arn}
    broker = start_broker(**settings([target], {"$connect": "f"}))
    open_client(broker)
    call = server.next()
    assert call.path == f"/2015-03-31/functions/{urllib.parse.quote(arn, safe='')}/invocations?Qualifier=live%201"
    given = call.headers["authorization"]
    signed = given.split("SignedHeaders=")[1].split(",")[0].split(";")
    assert {"host", "x-amz-date", "x-amz-invocation-type", "content-type"} <= set(signed)
    request = AWSRequest("POST", server.url + call.path, {name: call.headers[name] for name in signed}, call.body)
    request.context["timestamp"] = call.headers["x-amz-date"]
    auth = SigV4Auth(Credentials(functions.KEY, os.environ["HOME"]), "lambda", "eu-west-1")
    canonical = auth.canonical_request(request)
    signature = auth.signature(auth.string_to_sign(request, canonical), request)
    assert given.endswith(f"Signature={signature}")
    when = datetime.datetime.strptime(call.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
    assert abs(when - datetime.datetime.now(datetime.UTC).replace(tzinfo=None)) < datetime.timedelta(minutes=5)


def test_an_event_invocation_does_not_wait(serve, start_broker):
    server = serve(f=ok)
    routes = {"$connect": "f", "$default": "f"}
    broker = start_broker(**settings([lambda_target(server, "f", invocation="Event")], routes))
    client = open_client(broker)
    client.send(TEXT, "x")
    assert [server.next().headers["x-amz-invocation-type"] for _ in range(2)] == ["Event"] * 2


def test_webhooks_are_signed(serve, start_broker):
    server = serve(f=ok)
    broker = start_broker(**settings([webhook(server, "f", hmac="env:HOME")], {"$connect": "f"}))
    open_client(broker)
    call = server.next()
    time, signature = call.headers["x-polycast-signature"].split(",")
    whole = time.removeprefix("t=").encode() + b"." + call.body
    expected = hmac.new(os.environ["HOME"].encode(), whole, hashlib.sha256).hexdigest()
    assert signature == f"v1={expected}"


def test_cloud_events(serve, start_broker):
    server = serve(binary=ok, structured=ok)
    targets = [
        webhook(server, "binary", envelope="cloudevents-binary"),
        webhook(server, "structured", envelope="cloudevents-structured"),
    ]
    topics = [
        {"name": "a", "filter": "ce/#", "target": "binary"},
        {"name": "b", "filter": "ce/#", "target": "structured"},
    ]
    broker = start_broker(**settings(targets, {"$connect": "binary"}, topics))
    open_client(broker)
    call = server.next()
    assert (call.headers["ce-specversion"], call.headers["ce-type"]) == ("1.0", "io.polycast.connect")
    assert call.event["requestContext"]["connectionId"] == call.headers["ce-subject"]
    post(broker, "/api/v1/publish?topic=ce/1", "21", {"content-type": "text/plain"})
    calls = {call.name: call for call in (server.next(), server.next())}
    binary, structured = calls["binary"], calls["structured"]
    assert (binary.body, binary.headers["content-type"]) == (b"21", "text/plain")
    assert binary.headers["ce-subject"] == "ce/1"
    assert structured.headers["content-type"] == "application/cloudevents+json"
    assert structured.event["data"] == "21"
    assert structured.event["datacontenttype"] == "text/plain"
    for name in ("id", "source", "type", "time", "specversion"):
        assert structured.event[name]


def policy(effect, arn, principal="ann", **context):
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": arn}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    return {"principalId": principal, "policyDocument": document, "context": context}


def test_an_authorizer(serve, start_broker, target):
    def authorize(event):
        assert event["type"] == "REQUEST"
        word = event["headers"]["Authorization"]
        if word == "unauthorized":
            raise Failure("Unauthorized")
        if word == "broken":
            raise Failure("boom")
        effect = "Allow" if word == "secret" else "Deny"
        return policy(effect, event["methodArn"], number=1, truth=True)

    server = serve(auth=authorize, f=ok)
    more = {"authorizer": "auth", "identity_sources": "route.request.header.Authorization"}
    targets = [lambda_target(server, "auth"), target(server, "f")]
    broker = start_broker(**settings(targets, {key: "f" for key in ALL}, **more))
    assert refusal(broker)[0] == 401
    assert server.calls == [], "without an identity source nobody is asked"
    for word, status in (("unauthorized", 401), ("wrong", 403), ("broken", 500)):
        assert refusal(broker, extra=[f"Authorization: {word}"])[0] == status
    assert not server.of("MESSAGE") and all(call.name == "auth" for call in server.calls)
    raw = websocket.request(broker.http, path="/prod", extra=["Authorization: secret"])
    with socket.create_connection(("127.0.0.1", broker.http)) as sock:
        answer, _ = websocket.exchange(sock, raw)
        assert answer.status == 101
        sock.sendall(websocket.frame(TEXT, b"x"))
        server.until_called(1, "MESSAGE")
    server.until_called(1, "DISCONNECT")
    for call in [call for call in server.calls if call.name == "f"]:
        told = call.event["requestContext"]["authorizer"]
        assert (told["principalId"], told["number"], told["truth"]) == ("ann", "1", "true")


def test_messages_of_a_connection_come_one_after_the_other(serve, start_broker):
    running, most, seen = [], [], []
    lock = threading.Lock()

    def function(event):
        with lock:
            running.append(1)
            most.append(len(running))
        seen.append(event["body"])
        with lock:
            running.pop()
        return {"statusCode": 200, "body": event["body"]}

    server = serve(f=function)
    broker = start_broker(**settings([lambda_target(server, "f")], {"$default": {"target": "f", "response": True}}))
    client = open_client(broker)
    for number in range(50):
        client.send(TEXT, str(number))
    assert [client.read_message()[1] for _ in range(50)] == [str(number).encode() for number in range(50)]
    assert seen == [str(number) for number in range(50)]
    assert max(most) == 1


def test_calls_at_once_are_bounded(serve, start_broker):
    lock, go = threading.Lock(), threading.Event()
    running, most = [0], [0]

    def function(_):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        go.wait(10)
        with lock:
            running[0] -= 1
        return {"statusCode": 200, "body": "done"}

    server = serve(f=function)
    routes = {"$default": {"target": "f", "response": True}}
    broker = start_broker(**settings([webhook(server, "f")], routes, concurrency=2))
    clients = [open_client(broker) for _ in range(5)]
    for client in clients:
        client.send(TEXT, "x")
    until(lambda: running[0] == 2, "two calls at once")
    go.set()
    assert [client.read_message()[1] for client in clients] == [b"done"] * 5
    assert most[0] == 2


def test_a_client_that_sends_more_than_may_wait_is_told(serve, start_broker):
    go = threading.Event()

    def function(event):
        go.wait(10)
        return {"statusCode": 200, "body": event["body"]}

    server = serve(f=function)
    routes = {"$default": {"target": "f", "response": True}}
    broker = start_broker(**settings([webhook(server, "f")], routes, queue_messages=2))
    client = open_client(broker)
    client.send(TEXT, "1")
    server.next()
    for number in "2345":
        client.send(TEXT, number)
    told = [json.loads(client.read_message()[1])["message"] for _ in range(2)]
    assert told == ["Limit Exceeded"] * 2
    go.set()
    assert [client.read_message()[1] for _ in range(3)] == [b"1", b"2", b"3"]


GARBAGE = {
    "html": Raw(200, b"<html>"),
    "status": {"statusCode": "many"},
    "list": [1, 2],
    "nothing": None,
    "not text": Raw(200, b"\xff\xfe"),
    "huge": Raw(200, b"x" * 2_000_000),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_function_that_answers_nonsense(serve, start_broker, kind):
    server = serve(f=lambda event: GARBAGE[kind])
    targets = [lambda_target(server, "f")]
    routes = {"$default": {"target": "f", "response": True}}
    broker = start_broker(**settings(targets, routes, answer_size="1MiB"))
    client = open_client(broker)
    client.send(TEXT, "x")
    server.next()
    if kind in ("html", "not text", "huge"):
        assert json.loads(client.read_message()[1])["message"] == "Internal server error"
    client.send(websocket.PING, b"there")
    assert client.read_message() == (websocket.PONG, b"there")
    broker = start_broker(**settings(targets, {"$connect": "f"}, answer_size="1MiB"))
    assert refusal(broker)[0] == 502


def test_a_function_that_is_slow(serve, start_broker):
    go = threading.Event()
    server = serve(f=lambda _: go.wait(10) and None)
    broker = start_broker(**settings([webhook(server, "f", timeout="100ms")], {"$default": "f"}))
    client = open_client(broker)
    assert json.loads(ask(client, "x"))["message"] == "Internal server error"
    assert broker.metric("polycast_function_calls_total", target="f", result="unavailable") == 1
    go.set()
    broker = start_broker(**settings([webhook(server, "f", timeout="100ms")], {"$connect": "f"}))
    go.clear()
    assert refusal(broker)[0] == 502
    go.set()


def test_functions_that_are_down_are_left_alone(serve, start_broker):
    server = serve(f=echo)
    routes = {"$default": {"target": "f", "response": True}}
    broker = start_broker(**settings([lambda_target(server, "f")], routes, breaker_failures=3, breaker_time="300ms"))
    server.close()
    client = open_client(broker)
    for _ in range(5):
        assert json.loads(ask(client, "x"))["message"] == "Internal server error"
    unavailable = broker.metric("polycast_function_calls_total", target="f", result="unavailable")
    refused = broker.metric("polycast_function_calls_total", target="f", result="refused")
    assert unavailable >= 3 and refused >= 1 and unavailable + refused == 5
    assert broker.metric("polycast_function_breaker_open", target="f") == 1
    again = Server(server.port, f=echo)
    until(lambda: ask(client, "x") == "$default:x", "one call tries again")
    assert broker.metric("polycast_function_breaker_open", target="f") == 0
    again.close()


def test_private_addresses_must_be_listed(serve, start_broker):
    server = serve(f=ok)
    configured = settings([webhook(server, "f")], {"$connect": "f"}) | {"functions__private_networks": "10.0.0.0/8"}
    broker = start_broker(**configured)
    assert refusal(broker)[0] == 502
    assert server.calls == []


def test_a_function_that_closes_its_connections_is_called_all_the_same(serve, start_broker):
    server = serve(f=lambda event: Raw(200, json.dumps(echo(event)).encode(), {"Connection": "close"}))
    routes = {"$default": {"target": "f", "response": True}}
    broker = start_broker(**settings([webhook(server, "f")], routes))
    client = open_client(broker)
    for number in range(5):
        assert ask(client, str(number)) == f"$default:{number}"


def test_a_client_that_goes_before_it_came_in_is_told_of(serve, start_broker):
    go = threading.Event()

    def function(event):
        if event["requestContext"]["eventType"] == "CONNECT":
            go.wait(10)
        return {"statusCode": 200}

    server = serve(f=function)
    broker = start_broker(**settings([webhook(server, "f")], {"$connect": "f", "$disconnect": "f"}))
    with socket.create_connection(("127.0.0.1", broker.http)) as sock:
        sock.sendall(websocket.request(broker.http, path="/prod"))
        connected = server.next("CONNECT").event["requestContext"]["connectionId"]
    go.set()
    assert server.next("DISCONNECT").event["requestContext"]["connectionId"] == connected


def shown(api, url):
    """What the API says of a connection, which may be there a moment after the answer to the upgrade."""
    return until(lambda: (answer := api.get(url)).status_code == 200 and answer.json(), "the connection is there")


def test_connect_says_what_a_client_may(serve, start_broker):
    """Its function subscribes the client over HTTP, within the permissions that the answer to `$connect` gave."""
    allowed = [{"allow": ["subscribe"], "topics": ["menu/#"]}]
    server = serve(f=lambda _: {"statusCode": 200, "user": "ann", "permissions": allowed})
    login = {"auth__methods": "token", "auth__token_secret": tokens.SECRET, "security__anonymous": "never",
             "api__keys": "ops publish+subscribe+manage env:HOME"}
    broker = start_broker(**settings([webhook(server, "f")], {"$connect": "f"}), **login)
    client = open_client(broker)
    connection = server.next("CONNECT").event["requestContext"]["connectionId"]
    with httpx.Client(base_url=broker.http_url("/api/v1"), headers={"x-api-key": os.environ["HOME"]}) as api:
        row = shown(api, f"/connections/{connection}")
        assert (row["user"], row["protocol"]) == ("ann", "gateway"), row
        wish = {"topics": ["menu/today", "payroll"]}
        answer = api.post(f"/clients/{row['clientId']}/subscriptions", json=wish).json()
        assert [result["status"] for result in answer["results"]] == [200, 403]
        assert api.post("/publish", json={"topic": "payroll", "data": "no"}).json() == {"receivers": 0}
        assert api.post("/publish", json={"topic": "menu/today", "data": "soup"}).json() == {"receivers": 1}
    assert client.read_message() == (TEXT, b"soup")


def test_the_callback_goes_to_the_configured_domain(serve, start_broker):
    server = serve(f=ok)
    configured = settings([webhook(server, "f")], {"$connect": "f"}, domain="chat.example.org:8443", stage="dev")
    open_client(start_broker(**configured), path="/whatever")
    context = server.next().event["requestContext"]
    assert (context["domainName"], context["stage"]) == ("chat.example.org:8443", "dev")


def test_upgrades_that_are_signed(serve, start_broker):
    """IAM authorization, as API Gateway has it: with a header, and with a presigned address."""
    server = serve(f=ok)
    login = {"auth__methods": "token", "auth__token_secret": tokens.SECRET, "access__unmatched": "allow",
             "security__anonymous": "never",
             "api__aws_keys": f"{functions.KEY} publish+subscribe+manage env:HOME"}
    broker = start_broker(**settings([webhook(server, "f")], {"$connect": "f"}), **login)
    url = f"http://127.0.0.1:{broker.http}/prod"

    def signed(secret, kind):
        request = AWSRequest("GET", url)
        kind(Credentials(functions.KEY, secret), "execute-api", "eu-west-1").add_auth(request)
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        return {"path": request.url.split(str(broker.http), 1)[1], "extra": lines}

    for kind in (SigV4Auth, SigV4QueryAuth):
        assert refusal(broker, **signed("wrong", kind))[0] == 403
        assert server.calls == []
    for kind in (SigV4Auth, SigV4QueryAuth):
        given = signed(os.environ["HOME"], kind)
        with socket.create_connection(("127.0.0.1", broker.http)) as sock:
            answer, _ = websocket.exchange(sock, websocket.request(broker.http, **given))
            assert answer.status == 101
            connection = server.next("CONNECT").event["requestContext"]["connectionId"]
            with httpx.Client(headers={"authorization": f"Bearer {tokens.token('bob')}"}) as api:
                row = shown(api, broker.http_url(f"/api/v1/connections/{connection}"))
            assert row["user"] == functions.KEY, row


def test_where_clients_log_in(serve, start_broker):
    """The broker's logins count, unless a function says who it is."""

    def connect(event):
        user = (event.get("queryStringParameters") or {}).get("user")
        return {"statusCode": 200} | ({"user": user} if user else {})

    server = serve(f=connect)
    login = {"auth__methods": "token", "auth__token_secret": tokens.SECRET, "access__unmatched": "allow",
             "security__anonymous": "never"}
    broker = start_broker(**settings([webhook(server, "f")], {"$connect": "f"}), **login)
    assert refusal(broker)[0] == 401
    assert refusal(broker, path="/prod?access_token=nonsense")[0] == 401
    token = tokens.token("bob")
    for path, user in ((f"/prod?access_token={token}", "bob"), ("/prod?user=ann", "ann")):
        client = open_client(broker, path=path)
        message, bearer = json.dumps({"user": user, "data": user}), {"authorization": f"Bearer {token}"}
        # The answer to the upgrade may be here before the connection is.
        until(lambda: post(broker, "/api/v1/publish", message, bearer) == 200, "the user is there")
        assert client.read_message()[1] == user.encode()
        client.close()
