"""Certificates of two makers (polycast cert, openssl), and sockets that speak TLS."""

import pathlib
import socket
import ssl
import subprocess

from . import mqtt, process
from .waiting import PATIENCE

LOOPBACK = "127.0.0.1"


class Authority:
    """An authority in a folder of its own, made by `polycast cert`."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.run("ca")
        self.ca = folder / "ca.pem"

    def run(self, *arguments: str) -> None:
        done = subprocess.run(
            [process.polycast(), "cert", *arguments, "--dir", str(self.folder)],
            capture_output=True,
            text=True,
            timeout=30,
            env=process.plain_environment(),
        )
        assert done.returncode == 0, done.stderr

    def pair(self, file: str) -> tuple[pathlib.Path, pathlib.Path]:
        return self.folder / f"{file}.pem", self.folder / f"{file}-key.pem"

    def server(self, file: str = "server", *options: str) -> tuple[pathlib.Path, pathlib.Path]:
        if options or not self.pair(file)[0].exists():
            self.run("server", "--file", file, *options)
        return self.pair(file)

    def client(self, name: str, *options: str) -> tuple[pathlib.Path, pathlib.Path]:
        if options or not self.pair(name)[0].exists():
            self.run("client", name, *options)
        return self.pair(name)

    def settings(self, file: str = "server", **more) -> dict:
        """Settings of a broker that shows a certificate of this authority."""
        certificate, key = self.server(file)
        return {"tls__certificate": certificate, "tls__key": key} | more


class Openssl(Authority):
    """The same made by openssl, with RSA keys, which can also make what `polycast cert` will not."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.ca = folder / "ca.pem"
        (folder / "index.txt").touch()
        (folder / "crlnumber").write_text("01")
        openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=Test CA",
                "-keyout", "ca-key.pem", "-out", "ca.pem")

    def sign(self, file: str, subject: str, names: str, start: str, end: str):
        """A certificate from one time to another, both as YYMMDDHHMMSSZ."""
        openssl(self.folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject,
                "-keyout", f"{file}-key.pem", "-out", f"{file}.csr")
        (self.folder / f"{file}.ext").write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
        (self.folder / "ca.conf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
            "policy=p\nunique_subject=no\ncrlnumber=crlnumber\ncrl_extensions=x\n[p]\ncommonName=supplied\n"
            "[x]\nauthorityKeyIdentifier=keyid:always\n"
        )
        openssl(self.folder, "ca", "-batch", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca-key.pem",
                "-in", f"{file}.csr", "-out", f"{file}.pem", "-notext", "-extfile", f"{file}.ext",
                "-startdate", start, "-enddate", end)
        return self.pair(file)

    def server(self, file: str = "server", *options: str):
        if not self.pair(file)[0].exists():
            self.sign(file, "/CN=localhost", "DNS:localhost,IP:127.0.0.1", "200101000000Z", "490101000000Z")
        return self.pair(file)

    def client(self, name: str, *options: str):
        if not self.pair(name)[0].exists():
            self.sign(name, f"/CN={name}", f"email:{name}@example.org", "200101000000Z", "490101000000Z")
        return self.pair(name)

    def revoke(self, *names: str, days: str = "30") -> pathlib.Path:
        """The authority's revocation list, with these certificates on it too."""
        given = ["ca", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca-key.pem"]
        for name in names:
            openssl(self.folder, *given, "-revoke", f"{name}.pem")
        openssl(self.folder, *given, "-gencrl", "-crldays", days, "-out", "crl.new")
        (self.folder / "crl.new").rename(self.folder / "crl.pem")
        return self.folder / "crl.pem"


def openssl(folder: pathlib.Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def context(ca: pathlib.Path, client=None, alpn: list[str] | None = None) -> ssl.SSLContext:
    """What a careful client shakes hands with."""
    made = ssl.create_default_context(cafile=str(ca))
    if client:
        made.load_cert_chain(*map(str, client))
    if alpn:
        made.set_alpn_protocols(alpn)
    return made


def connect(port: int, using: ssl.SSLContext, name: str = "localhost") -> ssl.SSLSocket:
    """A socket after its handshake."""
    sock = socket.create_connection((LOOPBACK, port), timeout=PATIENCE)
    return using.wrap_socket(sock, server_hostname=name)


def mqtt_client(port: int, using: ssl.SSLContext, version: int = 5, **login) -> mqtt.Client:
    """An MQTT client that has logged in over TLS."""
    client = mqtt.Client(connect(port, using), version)
    client.login(**login)
    return client
