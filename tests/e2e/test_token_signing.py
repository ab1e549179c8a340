"""`polycast token`: what it signs, with each kind of key, logs a client in that others have made."""

import base64
import json
import queue
import subprocess

import paho.mqtt.client as paho
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from support import process
from support.waiting import PATIENCE, unique

PKCS8, TRADITIONAL = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
KEYS = {
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


def pair(folder, algorithm, form=PKCS8):
    """Files with a private and a public key."""
    private, public = folder / f"{algorithm}.key", folder / f"{algorithm}.pem"
    key = KEYS[algorithm]()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def run(*arguments):
    return subprocess.run([process.polycast(), "token", *map(str, arguments)], capture_output=True, text=True,
                          env=process.plain_environment(), timeout=30)


def sign(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def algorithm_of(token):
    part = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def paho_logs_in(broker, version, token):
    """Whether Paho gets in with a token as its password, and a message to itself."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, unique("paho"),
                         protocol=paho.MQTTv5 if version == 5 else paho.MQTTv311)
    client.username_pw_set("x", token)
    results, messages = queue.Queue(), queue.Queue()
    client.on_connect = lambda _c, _d, _f, reason, _p: results.put(not reason.is_failure)
    client.on_subscribe = lambda *_: client.publish("a", "hello", 1)
    client.on_message = lambda _c, _d, message: messages.put(message.payload)
    client.connect("127.0.0.1", broker.mqtt)
    client.loop_start()
    try:
        if not results.get(timeout=PATIENCE):
            return False
        client.subscribe("a", 1)
        return messages.get(timeout=PATIENCE) == b"hello"
    finally:
        client.disconnect()
        client.loop_stop()


def serve(start_broker, public):
    return start_broker(auth__methods="token", auth__token_key_files=public, access__unmatched="allow")


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("algorithm", KEYS)
def test_a_signed_token_logs_paho_in(start_broker, tmp_path, algorithm, version):
    private, public = pair(tmp_path, algorithm)
    broker = serve(start_broker, public)
    token = sign("ann", "--key-file", private)
    assert algorithm_of(token) == {"typ": "JWT", "alg": algorithm}, "the key says which algorithm it is"
    assert paho_logs_in(broker, version, token)
    _, other = pair(tmp_path, algorithm)
    assert not paho_logs_in(serve(start_broker, other), version, token)


@pytest.mark.parametrize("algorithm", ["ES512", "ES384", "ES256", "RS256"])
def test_keys_as_openssl_wrote_them_long_ago(start_broker, tmp_path, algorithm):
    """`BEGIN EC PRIVATE KEY` and `BEGIN RSA PRIVATE KEY`."""
    private, public = pair(tmp_path, algorithm, TRADITIONAL)
    assert paho_logs_in(serve(start_broker, public), 5, sign("ann", "--key-file", private))


def test_what_es512_signs_is_a_token_like_any_other(start_broker, tmp_path):
    """Its name of the key, its claims and its end."""
    private, public = pair(tmp_path, "ES512")
    broker = start_broker(auth__methods="token", auth__token_key_files=public, auth__token_audiences="polycast",
                          access__unmatched="allow")
    common = ("ann", "--key-file", private, "--algorithm", "ES512")
    token = sign(*common, "--kid", "ES512", "--audience", "polycast")
    assert algorithm_of(token)["kid"] == "ES512"
    assert paho_logs_in(broker, 5, token)
    assert not paho_logs_in(broker, 5, sign(*common)), "no audience"
    assert not paho_logs_in(broker, 5, sign(*common, "--audience", "polycast", "--claim", "exp=1000")), "it is over"


@pytest.mark.parametrize("algorithm, wanted", [
    ("ES512", "ES256"), ("ES512", "ES384"), ("ES256", "ES512"), ("ES384", "ES256"), ("RS256", "ES512"), ("ES512", "HS512"),
])
def test_an_algorithm_of_another_key_is_refused(tmp_path, algorithm, wanted):
    private, _ = pair(tmp_path, algorithm)
    done = run("ann", "--key-file", private, "--algorithm", wanted)
    assert done.returncode == 1 and f"{wanted} is not for this kind of key" in done.stderr
    assert not done.stdout


def test_unknown_algorithms_and_what_is_no_key_are_said(tmp_path):
    private, public = pair(tmp_path, "ES512")
    done = run("ann", "--key-file", private, "--algorithm", "ES256K")
    assert done.returncode == 2 and "ES512" in done.stderr
    done = run("ann", "--key-file", public)
    assert done.returncode == 1 and "not a private key" in done.stderr
