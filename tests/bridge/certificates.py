"""Certificates of a test's own authority, and the keys and tokens of NATS."""

import base64
import datetime
import ipaddress
import json
import pathlib
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: pathlib.Path, name: str = "tests"):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self.name, self.key).add_extension(x509.BasicConstraints(True, None), True)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.file = folder / f"{name}-ca.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[pathlib.Path, pathlib.Path]:
        """Certificate and key for 127.0.0.1 and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        builder = self._builder(subject, key).add_extension(x509.SubjectAlternativeName(names), False)
        builder = builder.add_extension(x509.BasicConstraints(False, None), True)
        certificate = builder.sign(self.key, hashes.SHA256())
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return files

    def _builder(self, subject, key):
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - DAY).not_valid_after(now + DAY)


def _base32(data: bytes) -> str:
    """With NATS' check sum: CRC-16 of XMODEM, little endian."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return base64.b32encode(data + crc.to_bytes(2, "little")).decode().rstrip("=")


KINDS = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
SEED = 18 << 3


class NKey:
    """A key pair in NATS' encoding, and the tokens that it signs."""

    def __init__(self, kind: str):
        self.key = ed25519.Ed25519PrivateKey.generate()
        raw = self.key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
        prefix = KINDS[kind]
        self.seed = _base32(bytes([SEED | prefix >> 5, (prefix & 31) << 3]) + raw)
        public = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public = _base32(bytes([prefix]) + public)

    def sign(self, nonce: str) -> bytes:
        """As nats-py wants an answer to a server's challenge."""
        return base64.b64encode(self.key.sign(nonce.encode()))

    def token(self, subject: str, name: str, nats: dict) -> str:
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        claims = {"jti": name, "iat": int(time.time()), "iss": self.public, "sub": subject, "name": name}
        claims["nats"] = {"version": 2} | nats
        text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        return f"{text}.{_base64(self.key.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def credentials(folder: pathlib.Path) -> tuple[str, pathlib.Path, dict]:
    """Settings of a server with an operator, the file of one of its users, and the same user for nats-py."""
    operator, account, user = NKey("operator"), NKey("account"), NKey("user")
    unlimited = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1, "wildcards": True}
    operator_token = operator.token(operator.public, "o", {"type": "operator"})
    account_token = operator.token(account.public, "a", {"type": "account", "limits": unlimited})
    user_token = account.token(user.public, "u", {"type": "user", "subs": -1, "data": -1, "payload": -1})
    settings = f"operator: {operator_token}\nresolver: MEMORY\nresolver_preload: {{ {account.public}: {account_token} }}\n"
    file = folder / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    callbacks = {"user_jwt_cb": lambda: bytearray(user_token.encode()), "signature_cb": user.sign}
    return settings, file, callbacks
