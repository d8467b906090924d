"""Serves the demo over https, with a certificate that is thrown away with it.

waitress, which serves it over http, has no TLS; the standard library's server is slow, and has.
"""

from __future__ import annotations

import datetime
import socketserver
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: How long the certificate holds.
DAYS = 7


class Certificate(NamedTuple):
    """Files, in PEM.

    :ivar authority: what a browser is to trust; its key is not kept.
    :ivar chain: with the key, for the server.
    """

    authority: Path
    chain: Path


def make_certificate(directory: Path, names: Sequence[str] = ("localhost",)) -> Certificate:
    """Make a certificate authority, and a certificate of it for a server.

    :param names: DNS names of the server.
    """
    authority, authority_key = certify("Demo of redis-lua-sessions", None, None, names)
    server, key = certify(names[0], authority, authority_key, names)
    found = Certificate(directory / "authority.pem", directory / "server.pem")
    found.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    found.chain.touch(mode=0o600)
    found.chain.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + server.public_bytes(serialization.Encoding.PEM)
    )
    return found


def certify(
    name: str, issuer: Any, issuer_key: Any, names: Sequence[str]
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Certify a new key: an authority's own where there is no issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    alternatives = x509.SubjectAlternativeName(list(map(x509.DNSName, names)))
    limits = x509.NameConstraints(list(map(x509.DNSName, names)), None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        # What is trusted can vouch for these names alone.
        .add_extension(limits if issuer is None else alternatives, critical=issuer is None)
    )
    return builder.sign(issuer_key or key, hashes.SHA256()), key


class TlsServer(socketserver.ThreadingMixIn, WSGIServer):
    """A server of WSGI over TLS, a thread for each connection."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up, or does not trust the certificate, is no error."""

    def setup_environ(self) -> None:
        super().setup_environ()
        self.base_environ["HTTPS"] = "on"


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def make_tls_server(app: Any, certificate: Certificate, host: str, port: int) -> TlsServer:
    """Listen; ``serve_forever`` serves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain)
    server = TlsServer((host, port), QuietHandler)
    server.set_app(app)
    # Each connection shakes hands in its own thread.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    return server
