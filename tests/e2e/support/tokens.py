"""Signed tokens, and small HTTP servers: one that publishes keys, one that says who is who."""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives import hashes, serialization

SECRET = "e2e-secret-0123456789abcdef-0123456789"


def b64(raw: bytes | str) -> str:
    raw = raw.encode() if isinstance(raw, str) else raw
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(header: dict, claims: dict) -> str:
    return f"{b64(json.dumps(header))}.{b64(json.dumps(claims))}"


def claims(user: str = "ann", secs: float = 600, **more) -> dict:
    now = int(time.time())
    return {"sub": user, "iat": now, "exp": now + secs} | more


def hs256(given: dict | None = None, secret: str | bytes = SECRET, **header) -> str:
    """A token signed with a shared secret."""
    message = unsigned({"alg": "HS256", "typ": "JWT"} | header, claims() if given is None else given)
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{message}.{b64(hmac.digest(key, message.encode(), hashlib.sha256))}"


def token(user: str = "ann", secs: float = 600, **more) -> str:
    return hs256(claims(user, secs, **more))


class Rsa:
    """A key of RSA."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, given: dict, **header) -> str:
        message = unsigned({"alg": "RS256"} | header, given)
        return f"{message}.{b64(self.key.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class Ed:
    """A key of Ed25519, with a name."""

    def __init__(self, kid: str):
        self.kid = kid
        self.key = ed25519.Ed25519PrivateKey.generate()

    def jwk(self) -> dict:
        raw = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": self.kid, "x": b64(raw)}

    def sign(self, given: dict, **header) -> str:
        message = unsigned({"alg": "EdDSA", "kid": self.kid} | header, given)
        return f"{message}.{b64(self.key.sign(message.encode()))}"


class Ec:
    """A key of ECDSA, with a name: ES256, ES384 or ES512 with its curve."""

    KINDS = {"ES256": (ec.SECP256R1, hashes.SHA256), "ES384": (ec.SECP384R1, hashes.SHA384),
             "ES512": (ec.SECP521R1, hashes.SHA512)}

    def __init__(self, kid: str, algorithm: str = "ES512"):
        self.kid, self.algorithm = kid, algorithm
        curve, self.hash = self.KINDS[algorithm]
        self.key = ec.generate_private_key(curve())
        self.length = (curve.key_size + 7) // 8
        self.public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def jwk(self, **more) -> dict:
        point = self.key.public_key().public_numbers()
        x, y = (b64(number.to_bytes(self.length)) for number in (point.x, point.y))
        curve = f"P-{self.key.curve.key_size}"
        return {"kty": "EC", "crv": curve, "alg": self.algorithm, "kid": self.kid, "x": x, "y": y} | more

    def sign(self, given: dict, **header) -> str:
        message = unsigned({"alg": self.algorithm, "kid": self.kid} | header, given)
        halves = decode_dss_signature(self.key.sign(message.encode(), ec.ECDSA(self.hash())))
        return f"{message}.{b64(b''.join(half.to_bytes(self.length) for half in halves))}"


class Service:
    """An HTTP server on a port of the system's choice. `answer(request)` gives status, headers and JSON;
    `request` is the body of a POST as JSON, or None."""

    def __init__(self, answer):
        self.requests: list = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(None)

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                self.reply(json.loads(self.rfile.read(length)) | {"authorization": self.headers["Authorization"]})

            def reply(self, request):
                service.requests.append(request)
                status, headers, body = answer(request)
                raw = json.dumps(body).encode()
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
