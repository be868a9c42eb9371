"""TLS of outbound connections: contexts from an operator's certificates, and words for what fails in a handshake.

Keys are never written to a disk: OpenSSL reads them from memory where the system has files there (Linux).
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from toril.core.http.outbound_policy import TlsFiles

_CERTIFICATE = re.compile(
    r"-----BEGIN (?P<kind>(?:X509 |TRUSTED )?CERTIFICATE)-----.+?-----END (?P=kind)-----", re.DOTALL
)
_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")

_ALERTS = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate, and tls.cert_file names none",
    "UNKNOWN_CA": "it does not know the authority that has signed the client certificate",
    "BAD_CERTIFICATE": "it does not accept the client certificate",
    "CERTIFICATE_UNKNOWN": "it does not accept the client certificate",
    "UNSUPPORTED_CERTIFICATE": "it does not accept this kind of client certificate",
    "CERTIFICATE_EXPIRED": "the client certificate has expired",
    "CERTIFICATE_REVOKED": "the client certificate has been revoked",
    "ACCESS_DENIED": "it grants the client certificate no access",
    "HANDSHAKE_FAILURE": "it has no cipher in common, or wants a client certificate",
    "PROTOCOL_VERSION": "it speaks no version of TLS that is spoken here",
    "UNRECOGNIZED_NAME": "it does not serve this host name",
}
"""What a server means by an alert (RFC 8446 6.2), by the end of OpenSSL's name for it."""


def system_context() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities. Loading them takes 50 ms.

    Raises:
        OSError: there is no descriptor to read them with; OpenSSL would take that for an empty file.
    """
    os.close(os.open(os.devnull, os.O_RDONLY))
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def context_of(files: TlsFiles, *, trust_system: bool = False) -> ssl.SSLContext:
    """Return a context that trusts the CA of these files, and shows their certificate.

    Args:
        trust_system: the system's authorities are trusted beside the CA, and not only where there is none.

    Raises:
        ValueError: a file holds something else; says what, and nothing of what is in it.
        OSError: as `system_context`.
    """
    if trust_system or not files.ca:
        context = system_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["http/1.1"])
    if files.ca:
        trust(context, files.ca)
    if files.cert:
        show(context, files.cert, files.key)
    return context


def trust(context: ssl.SSLContext, ca: str) -> None:
    """Trust the certificates of a PEM text, also one that is no authority's but the server's own.

    Raises:
        ValueError: it holds none.
    """
    found = [match[0] for match in _CERTIFICATE.finditer(ca)]
    if not found:
        raise ValueError("it holds no certificate in PEM")
    try:
        context.load_verify_locations(cadata="\n".join(found))
    except (ssl.SSLError, ValueError) as exc:
        raise ValueError("it holds a certificate that cannot be read") from exc
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Private authorities often lack the extensions that this asks for (on by default from Python 3.13 on).
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT


def show(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Show a certificate, with its chain, to servers that ask for one. Without a key, `cert` holds it, too.

    Raises:
        ValueError: there is no certificate, or its key cannot be used, or belongs to another certificate.
    """
    whole = f"{cert}\n{key}\n"
    if not _CERTIFICATE.search(cert):
        raise ValueError("there is no certificate in PEM in it")
    if not _KEY.search(whole):
        raise ValueError("there is no private key in PEM in it")
    try:
        with _in_a_file(whole.encode()) as path:
            context.load_cert_chain(path, password=_no_password)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ValueError("the key does not fit the certificate") from None
        raise ValueError(f"certificate and key cannot be used ({exc.reason or 'unreadable'})") from None


def _no_password() -> str:
    # Without this OpenSSL asks for one on the terminal.
    raise ValueError("the key is encrypted; toril reads only keys without a passphrase")


@contextmanager
def _in_a_file(data: bytes) -> Iterator[str]:
    """Return the path of a file with this content, since OpenSSL reads certificates from files only."""
    if sys.platform == "linux":
        with os.fdopen(os.memfd_create("toril-tls"), "wb") as memory:
            memory.write(data)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name


def failure_words(exc: ssl.SSLError, where: str) -> str:
    """Return what went wrong between toril and the server at `where`, the cause first in OpenSSL's word for it."""
    reason = exc.reason or "TLS"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"{reason}: the certificate of {where} is not accepted ({exc.verify_message})"
    alert = _ALERTS.get(reason.partition("ALERT_")[2])
    return f"{reason}: {where} has ended TLS: {alert}" if alert is not None else f"{reason}: no TLS with {where}"
