"""Who a client is: tokens, passwords, key sets and an HTTP service, through every protocol and with clients that
others wrote."""

import json
import queue
import signal
import socket
import subprocess
import threading

import httpx
import paho.mqtt.client as paho
import pytest
import stomp as stomppy
from paho.mqtt.enums import CallbackAPIVersion

from support import json_client, mqtt, process, stomp, tokens, websocket
from support.waiting import PATIENCE, unique, until

TOKENS = {"auth__methods": "token", "auth__token_secret": tokens.SECRET, "access__unmatched": "allow"}


@pytest.fixture(scope="module")
def broker(request, tmp_path_factory):
    broker = process.start(tmp_path_factory.mktemp("auth"), **TOKENS, auth__token_audiences="polycast", log__level="trace")
    yield broker
    broker.stop()
    log = broker.log_text()
    assert tokens.SECRET not in log and "eyJ" not in log, "a secret in the log"


def good(user="ann", **more):
    return tokens.token(user, aud="polycast", **more)


# --- where a token comes, and what a refusal looks like -----------------------------------------------


def by_mqtt(version):
    def attempt(broker, token):
        client = mqtt.Client.plain(broker.mqtt, version)
        client.send(mqtt.connect(unique("c"), version, username="x", password=token))
        answer = client.expect(mqtt.CONNACK)
        if answer.reason:
            assert client.expect_closed() == []
        client.close()
        return None if answer.reason == 0 else answer.reason

    return attempt


def by_mqtt_auth(broker, token):
    client = mqtt.Client.plain(broker.mqtt)
    client.send(mqtt.connect(unique("c"), props={"authentication_method": "jwt", "authentication_data": token}))
    answer = client.expect(mqtt.CONNACK)
    client.close()
    return None if answer.reason == 0 else answer.reason


def by_stomp(header, prefix=""):
    def attempt(broker, token):
        client = stomp.Client.plain(broker.stomp)
        client.send("CONNECT", {"accept-version": "1.2", "host": "x", header: prefix + token})
        frame = client.receive()
        client.close()
        return None if frame.command == "CONNECTED" else frame["message"]

    return attempt


def json_outcome(client, **fields):
    try:
        answer = client.ask("connect", **fields)
        if answer["type"] == "connected":
            return None
        assert client.expect_closed()[1] == 4401
        return answer["code"]
    finally:
        client.close()


def by_json(broker, token):
    return json_outcome(json_client.Client(broker.http), token=token)


def by_query(broker, token):
    return json_outcome(json_client.Client(broker.http, path=f"/ws?access_token={token}"))


def by_upgrade(broker, token):
    """In the header of the upgrade, for a client whose protocol brings no credentials itself."""
    extra = [f"Authorization: Bearer {token}"]
    with socket.create_connection(("127.0.0.1", broker.http), PATIENCE) as sock:
        answer, _ = websocket.exchange(sock, websocket.request(broker.http, ["mqtt"], extra=extra))
        assert answer.status == 101
        sock.sendall(websocket.frame(websocket.BINARY, mqtt.connect(unique("c"))))
        reason = sock.recv(6)[5]
        return None if reason == 0 else reason


def by_refresh(broker, token):
    """As a renewal of credentials that are good; refused there, nothing is changed by it."""
    client = json_client.Client.open(broker.http, token=good())
    answer = client.ask("refresh", token=token)
    client.fence()
    client.close()
    return None if answer["type"] == "ack" else answer["code"]


def by_http(header, prefix=""):
    def attempt(broker, token):
        answer = httpx.get(broker.http_url("/api/v1/clients"), headers={header: prefix + token})
        return None if answer.status_code == 200 else answer.status_code

    return attempt


def by_stream(broker, token):
    """Where an EventSource puts it: it cannot send headers."""
    with httpx.stream("GET", broker.http_url("/api/v1/subscribe"), params={"topic": "t", "access_token": token}) as answer:
        return None if answer.status_code == 200 else answer.status_code


WAYS = {
    "mqtt 3.1.1": (by_mqtt(4), 4, 5),
    "mqtt 5": (by_mqtt(5), 0x86, 0x87),
    "mqtt 5 AUTH": (by_mqtt_auth, 0x86, 0x87),
    "stomp passcode": (by_stomp("passcode"), "Bad credentials", "Not authorized"),
    "stomp Authorization": (by_stomp("Authorization", "Bearer "), "Bad credentials", "Not authorized"),
    "json": (by_json, "badCredentials", "notAuthorized"),
    "query": (by_query, "badCredentials", "notAuthorized"),
    "upgrade": (by_upgrade, 0x86, 0x87),
    "http": (by_http("Authorization", "Bearer "), 401, 401),
    "event stream": (by_stream, 401, 401),
}

RENEWAL = {"refresh": (by_refresh, "badCredentials", "notAuthorized")}


@pytest.mark.parametrize("way", WAYS)
def test_a_good_token_is_let_in_everywhere(broker, way):
    attempt, bad, _ = WAYS[way]
    assert attempt(broker, good()) is None
    # Not a JWT in the place of a password is a password, and nobody knows those here.
    assert attempt(broker, "garbage") == bad


RSA = tokens.Rsa()


def attacks():
    fresh = tokens.claims(aud="polycast")
    whole = tokens.hs256(fresh)
    message, signature = whole.rsplit(".", 1)
    return {
        "none": f"{tokens.unsigned({'alg': 'none'}, fresh)}.",
        "none with a signature": f"{tokens.unsigned({'alg': 'none'}, fresh)}.{signature}",
        "another algorithm": RSA.sign(fresh),
        "another secret": tokens.hs256(fresh, "x" * 32),
        "no secret": tokens.hs256(fresh, ""),
        "kid path": tokens.hs256(fresh, "", kid="../../../../dev/null"),
        "kid url": tokens.hs256(fresh, "", kid="http://127.0.0.1:1/", jku="http://127.0.0.1:1/"),
        "expired": tokens.hs256(tokens.claims(secs=-61, aud="polycast")),
        "not yet": tokens.hs256(fresh | {"nbf": fresh["iat"] + 120}),
        "wrong audience": tokens.hs256(fresh | {"aud": "other"}),
        "no audience": tokens.token(),
        "no user": tokens.hs256({key: value for key, value in fresh.items() if key != "sub"}),
        "no end": tokens.hs256({key: value for key, value in fresh.items() if key != "exp"}),
        "truncated": f"{message}.{signature[:-4]}",
        "no signature": f"{message}.",
        "other claims": f"{message.split('.')[0]}.{tokens.b64(json.dumps(fresh | {'sub': 'root'}))}.{signature}",
        "oversized": tokens.hs256(fresh | {"x": "x" * 9000}),
    }


@pytest.mark.parametrize("attack", attacks())
def test_token_attacks(broker, attack):
    token = attacks()[attack]
    for way, (attempt, bad, _) in (WAYS | RENEWAL).items():
        # STOMP's bound of a header is met before the token's.
        expected = "Frame too large" if attack == "oversized" and way.startswith("stomp") else bad
        assert attempt(broker, token) == expected, way


def test_the_public_key_is_no_secret(start_broker, tmp_path):
    """The classic: an HS256 token whose secret is the published RSA key."""
    (tmp_path / "k1.pem").write_bytes(RSA.public)
    broker = start_broker(auth__methods="token", auth__token_key_files=tmp_path / "k1.pem", access__unmatched="allow")
    given = tokens.claims()
    for attempt, bad, _ in WAYS.values():
        assert attempt(broker, RSA.sign(given)) is None
        for secret in (RSA.public, RSA.public.strip()):
            assert attempt(broker, tokens.hs256(given, secret)) == bad


def test_es512_from_a_file_and_from_a_key_set(start_broker, tmp_path):
    """P-521, in every protocol, beside a key of another curve; what is not its signature lets nobody in."""
    own, other, small = tokens.Ec("own"), tokens.Ec("own"), tokens.Ec("small", "ES256")
    for key in (own, small):
        (tmp_path / f"{key.kid}.pem").write_bytes(key.public)
    (tmp_path / "only.pem").write_bytes(own.public)
    sets = [{"keys": [own.jwk(), small.jwk()]}, {"keys": [own.jwk(alg=None), small.jwk(alg=None)]}]
    services = [tokens.Service(lambda _, keys=keys: (200, {}, keys)) for keys in sets]
    common = {"auth__methods": "token", "auth__token_audiences": "polycast", "access__unmatched": "allow"}
    files = f"{tmp_path / 'own.pem'},{tmp_path / 'small.pem'}"
    brokers = [start_broker(**common, auth__token_key_files=files)]
    brokers += [start_broker(**common, auth__token_jwks_url=service.url) for service in services]
    fresh = tokens.claims(aud="polycast")
    good = own.sign(fresh)
    message, signature = good.rsplit(".", 1)
    bad_tokens = [
        other.sign(fresh),
        small.sign(fresh, alg="ES512"), small.sign(fresh, alg="ES512", kid="own"),
        own.sign(fresh, alg="ES256"), own.sign(fresh, alg="ES384"), own.sign(fresh, alg="ES256", kid="small"),
        tokens.hs256(fresh, own.public), f"{message}.{tokens.b64(bytes(132))}", f"{message}.{signature[:-4]}",
        own.sign(tokens.claims(secs=-61, aud="polycast")), own.sign(fresh | {"aud": "other"}),
    ]
    for broker in brokers:
        for attempt, bad, _ in WAYS.values():
            assert attempt(broker, good) is None and attempt(broker, small.sign(fresh)) is None
            assert attempt(broker, other.sign(fresh)) == bad
        attempt, bad, _ = WAYS["mqtt 5"]
        for number, token in enumerate(bad_tokens):
            assert attempt(broker, token) == bad, number
    without = start_broker(**common, auth__token_key_files=tmp_path / "only.pem", auth__token_algorithms="ES256,ES384")
    assert WAYS["mqtt 5"][0](without, good) == WAYS["mqtt 5"][1], "it is not listed"
    for service in services:
        service.close()


def test_without_a_login_nobody_gets_in(broker):
    before = broker.metric("polycast_authentications_refused_total", reason="missing")
    for way in (by_mqtt(5), by_mqtt(4)):
        client = mqtt.Client.plain(broker.mqtt)
        client.login(expect_reason=0x87)
    client = mqtt.Client.plain(broker.mqtt, 4)
    client.login(expect_reason=5)
    refused = stomp.Client.plain(broker.stomp)
    refused.send("CONNECT", {"accept-version": "1.2", "host": "x"})
    assert refused.expect_error()["message"] == "Not authorized"
    # The first frame of a JSON client logs in by itself.
    impatient = json_client.Client(broker.http)
    impatient.send("publish", topic="a", data=1)
    frames, code = impatient.expect_closed()
    assert frames[0]["code"] == "notAuthorized" and code == 4401
    assert broker.metric("polycast_authentications_refused_total", reason="missing") == before + 5


def test_another_method_of_mqtt_is_refused(broker):
    client = mqtt.Client.plain(broker.mqtt)
    client.send(mqtt.connect("c", props={"authentication_method": "SCRAM-SHA-1"}))
    assert client.expect(mqtt.CONNACK).reason == 0x8C


def test_the_header_of_the_upgrade_counts_for_every_subprotocol(broker):
    from websockets.sync.client import connect

    headers = {"Authorization": f"Bearer {good('bob')}"}
    with connect(f"ws://127.0.0.1:{broker.http}/", subprotocols=["json"], additional_headers=headers) as ws:
        ws.send('{"type":"connect"}')
        assert json.loads(ws.recv())["user"] == "bob"
    with connect(f"ws://127.0.0.1:{broker.http}/", subprotocols=["v12.stomp"], additional_headers=headers) as ws:
        ws.send("CONNECT\naccept-version:1.2\nhost:x\n\n\0")
        assert "user-name:bob" in ws.recv()
    with connect(f"ws://127.0.0.1:{broker.http}/", subprotocols=["mqtt"], additional_headers=headers) as ws:
        ws.send(mqtt.connect("over-ws"))
        assert ws.recv()[3] == 0


@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5])
def test_paho(broker, protocol):
    outcome = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=unique("paho"), protocol=protocol)
    client.on_connect = lambda *given: outcome.put(given[3])
    for password, name in ((good(), "Success"), ("wrong", "Bad user name or password")):
        client.username_pw_set("ann", password)
        client.connect("127.0.0.1", broker.mqtt)
        client.loop_start()
        assert outcome.get(timeout=PATIENCE).getName() == name
        client.disconnect()
        client.loop_stop()


def test_stomp_py(broker):
    def open_client():
        return stomppy.Connection12([("127.0.0.1", broker.stomp)], reconnect_attempts_max=1)

    client = open_client()
    client.connect("ann", good(), wait=True)
    assert client.is_connected()
    client.disconnect()
    client = open_client()
    with pytest.raises(stomppy.exception.ConnectFailedException):
        client.connect("ann", "wrong", wait=True)


# --- S30: a session belongs to its user ---------------------------------------------------------------


def test_a_client_identifier_in_use_is_its_users_alone(broker):
    name = unique("victim")
    victim = mqtt.Client.open(broker.mqtt, client_id=name, username="x", password=good("ann"), clean=False,
                              props={"session_expiry": 60})
    thief = mqtt.Client.plain(broker.mqtt)
    thief.send(mqtt.connect(name, username="x", password=good("eve")))
    assert thief.expect(mqtt.CONNACK).reason == 0x87
    victim.ping()
    victim.subscribe("a", qos=1)
    victim.drop()
    thief = mqtt.Client.plain(broker.mqtt)
    thief.send(mqtt.connect(name, clean=False, username="x", password=good("eve")))
    assert thief.expect(mqtt.CONNACK).reason == 0x87, "what waits is the victim's too"
    back = mqtt.Client.plain(broker.mqtt)
    assert back.login(name, clean=False, username="x", password=good("ann")).session_present
    back.close()


# --- passwords ----------------------------------------------------------------------------------------


def passwd(file, *arguments, password="word"):
    return subprocess.run([process.polycast(), "passwd", str(file), *arguments], input=password + "\n",
                          capture_output=True, text=True, env=process.plain_environment(), timeout=30)


def test_passwords(start_broker, tmp_path):
    file = tmp_path / "passwords"
    assert passwd(file, "ann").returncode == 0
    assert "word" not in file.read_text() and "$argon2id$" in file.read_text()
    broker = start_broker(auth__methods="token,password", auth__password_file=file, auth__token_secret=tokens.SECRET,
                          access__unmatched="allow")
    mqtt.Client.open(broker.mqtt, username="ann", password="word").disconnect()
    stomp.Client.open(broker.stomp, login="ann", passcode="word").close()
    assert json_client.Client.open(broker.http, username="ann", password="word").connected["user"] == "ann"
    for user, word in (("ann", "Word"), ("eve", "word"), ("ann", "")):
        client = mqtt.Client.plain(broker.mqtt)
        client.login(username=user, password=word, expect_reason=0x86)
    # What comes behind a login that is still being checked is not lost and not too early.
    eager = mqtt.Client.plain(broker.mqtt)
    eager.send(mqtt.connect("eager", username="ann", password="word") + mqtt.subscribe(1, [("t", 0)])
               + mqtt.publish("t", "hello"))
    assert [eager.receive().kind for _ in range(2)] == [mqtt.CONNACK, mqtt.SUBACK]
    assert eager.message().payload == b"hello"
    # A change counts from the next login on.
    assert passwd(file, "bob", password="other").returncode == 0
    mqtt.Client.open(broker.mqtt, username="bob", password="other").disconnect()
    assert passwd(file, "bob", "--delete").returncode == 0
    mqtt.Client.plain(broker.mqtt).login(username="bob", password="other", expect_reason=0x86)
    assert passwd(file, "bob", "--delete").returncode == 1
    assert passwd(file, "a:b").returncode == 1


def test_a_flood_of_logins_leaves_the_others_alone(start_broker, tmp_path):
    file = tmp_path / "passwords"
    passwd(file, "ann")
    broker = start_broker(auth__methods="password", auth__password_file=file, auth__password_checks=1,
                          auth__password_waiting=4)
    healthy = mqtt.Client.open(broker.mqtt, username="ann", password="word")
    flood = []
    for _ in range(40):
        client = mqtt.Client.plain(broker.mqtt)
        client.send(mqtt.connect(unique("f"), username="eve", password="guess"))
        flood.append(client)
    healthy.fence()
    reasons = {client.expect(mqtt.CONNACK).reason for client in flood}
    assert reasons == {0x86, 0x89}, "wrong, or busy"
    healthy.fence()


# --- key sets -----------------------------------------------------------------------------------------


def test_keys_rotate_and_outlive_their_host(start_broker):
    keys = [tokens.Ed("one")]
    service = tokens.Service(lambda _: (200, {}, {"keys": [key.jwk() for key in keys]}))
    broker = start_broker(auth__methods="token", auth__token_jwks_url=service.url, auth__token_jwks_pause="100ms",
                          access__unmatched="allow")
    for attempt, _, _ in WAYS.values():
        assert attempt(broker, keys[0].sign(tokens.claims())) is None
    assert len(service.requests) == 1
    old = keys[0]
    keys[:] = [tokens.Ed("two")]
    attempt, bad, _ = WAYS["mqtt 5"]
    until(lambda: attempt(broker, keys[0].sign(tokens.claims())) is None, "the new key is fetched")
    assert attempt(broker, old.sign(tokens.claims())) == bad, "the old one is gone"
    service.close()
    assert attempt(broker, keys[0].sign(tokens.claims())) is None, "the keys at hand are used"
    assert attempt(broker, tokens.Ed("three").sign(tokens.claims())) == bad


def test_unknown_keys_do_not_make_a_storm(start_broker):
    service = tokens.Service(lambda _: (200, {}, {"keys": [tokens.Ed("one").jwk()]}))
    broker = start_broker(auth__methods="token", auth__token_jwks_url=service.url)
    threads = [threading.Thread(target=by_json, args=(broker, tokens.Ed(f"k{n}").sign(tokens.claims())))
               for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(service.requests) == 1
    service.close()


def test_a_key_host_that_is_down_is_said(start_broker):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        broker = start_broker(auth__methods="token", auth__token_jwks_url=url)
        token = tokens.Ed("one").sign(tokens.claims())
        assert by_mqtt(5)(broker, token) == 0x88
        assert by_mqtt(4)(broker, token) == 3
        assert by_stomp("passcode")(broker, token) == "Server unavailable"
        client = json_client.Client(broker.http)
        assert client.ask("connect", token=token)["code"] == "unavailable"
        assert "could not be fetched" in broker.log_text()


# --- the HTTP service ---------------------------------------------------------------------------------


def test_a_service_decides(start_broker):
    users = {"ann": (200, {"Cache-Control": "max-age=60"}, {"allow": True, "user": "Ann"}),
             "bob": (200, {}, {"allow": True}), "eve": (403, {}, {}), "mal": (200, {}, {"allow": False}),
             "sick": (500, {}, {})}
    service = tokens.Service(lambda request: users[request["username"]])
    broker = start_broker(auth__methods="callback", auth__callback_url=service.url, auth__callback_secret="s" * 32)
    for _ in range(3):
        client = json_client.Client.open(broker.http, clientId="c1", username="ann", password="w")
        assert client.connected["user"] == "Ann"
        client.close()
    assert len(service.requests) == 1, "remembered for its max-age"
    assert service.requests[0] == {"clientId": "c1", "username": "ann", "password": "w", "protocol": "json 1",
                                   "address": "127.0.0.1", "authorization": f"Bearer {'s' * 32}"}
    for _ in range(2):
        mqtt.Client.open(broker.mqtt, client_id="c2", username="bob", password="w").disconnect()
    assert len(service.requests) == 3, "no max-age, no memory"
    for user, reason in (("eve", 0x87), ("mal", 0x87), ("sick", 0x88)):
        mqtt.Client.plain(broker.mqtt).login(username=user, password="w", expect_reason=reason)
    service.close()
    mqtt.Client.plain(broker.mqtt).login(username="bob", password="w", expect_reason=0x88)
    json_client.Client.open(broker.http, clientId="c1", username="ann", password="w").close()


def test_a_service_that_hangs_holds_up_its_own_client_only(start_broker):
    release = threading.Event()
    service = tokens.Service(lambda request: (release.wait(PATIENCE), (200, {}, {"allow": True}))[1])
    broker = start_broker(auth__methods="callback", auth__callback_url=service.url, auth__callback_timeout="1s",
                          auth__callback_open=1, security__anonymous="loopback")
    stuck = mqtt.Client.plain(broker.mqtt)
    stuck.send(mqtt.connect("stuck", username="ann", password="w"))
    until(lambda: service.requests, "the service is asked")
    mqtt.Client.open(broker.mqtt).fence()
    assert stuck.expect(mqtt.CONNACK).reason == 0x88
    release.set()
    service.close()


# --- safe defaults ------------------------------------------------------------------------------------


def serve_and_fail(tmp_path, *arguments, **settings):
    environment = process.plain_environment() | {f"POLYCAST_{key.upper()}": str(value) for key, value in settings.items()}
    done = subprocess.run([process.polycast(), "serve", *arguments, "--data-dir", str(tmp_path)], env=environment,
                          capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_an_open_listener_without_logins_says_what_to_write(tmp_path):
    said = serve_and_fail(tmp_path, "--mqtt", "0.0.0.0:0")
    assert 'auth.methods = ["password"]' in said and 'auth.password_file = "passwords"' in said
    secret = "short-secret"
    said = serve_and_fail(tmp_path, auth__token_secret=secret)
    assert "less than 32 bytes" in said and secret not in said
    assert "auth.password_file" in serve_and_fail(tmp_path, auth__methods="password", auth__password_file="/none")


def test_an_open_listener_with_logins_starts(start_broker):
    broker = start_broker("--mqtt", "0.0.0.0:0", **TOKENS)
    mqtt.Client.plain(broker.mqtt).login(expect_reason=0x87)
    mqtt.Client.open(broker.mqtt, username="x", password=tokens.token()).disconnect()


def test_a_new_secret_counts_after_sighup(start_broker, tmp_path):
    file = tmp_path / "secret"
    file.write_text("a" * 32 + "\n")
    broker = start_broker(auth__methods="token", auth__token_secret_file=file)
    old, new = tokens.hs256(secret="a" * 32), tokens.hs256(secret="b" * 32)
    attempt, bad, _ = WAYS["mqtt 5"]
    assert attempt(broker, old) is None and attempt(broker, new) == bad
    file.write_text("b" * 32 + "\n")
    broker.signal(signal.SIGHUP)
    until(lambda: attempt(broker, new) is None, "the new secret is read")
    assert attempt(broker, old) == bad
    file.unlink()
    broker.signal(signal.SIGHUP)
    until(lambda: "was not reloaded" in broker.log_text(), "the mistake is said")
    assert attempt(broker, new) is None, "what ran goes on"


def test_polycast_token_signs_what_the_broker_takes(broker, tmp_path):
    file = tmp_path / "secret"
    file.write_text(tokens.SECRET)
    done = subprocess.run([process.polycast(), "token", "zoe", "--secret-file", str(file), "--audience", "polycast",
                           "--claim", "team=x", "--expires", "5min"], capture_output=True, text=True,
                          env=process.plain_environment(), timeout=30)
    assert done.returncode == 0, done.stderr
    connected = json_client.Client.open(broker.http, token=done.stdout.strip()).connected
    assert connected["user"] == "zoe"
