"""A certificate authority that a test makes: certificates for servers and clients, valid or expired."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM texts."""

    cert: str
    key: str

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Put both into a folder; the files of the certificate and of the key."""
        files = folder / f"{name}.pem", folder / f"{name}-key.pem"
        files[0].write_text(self.cert)
        files[1].write_text(self.key)
        return files


class Authority:
    """An authority that is made anew for each test, and that nothing else trusts."""

    def __init__(self, name: str = "Test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        own = x509.BasicConstraints(ca=True, path_length=None)
        self._cert = self._signed(self._name, self._key.public_key(), 3650, [(own, True)])
        self.pem = _pem(self._cert)

    def write(self, file: Path) -> Path:
        """Put the authority's certificate into a file."""
        file.write_text(self.pem)
        return file

    def server(self, *hosts: str, days: int = 30) -> Certificate:
        """A certificate for a server with these names and addresses; with negative `days` it has expired."""
        names = [_general(host) for host in hosts or ("localhost", "127.0.0.1")]
        return self._issue("server", ExtendedKeyUsageOID.SERVER_AUTH, days, x509.SubjectAlternativeName(names))

    def client(self, name: str = "toril", days: int = 30) -> Certificate:
        """A certificate that a client shows."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def server_tls(self, certificate: Certificate, folder: Path, clients: "Authority | None" = None) -> ssl.SSLContext:
        """The TLS side of a server with this certificate; it asks for certificates of `clients`, if given."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate.write(folder, f"server-{id(certificate)}"))
        if clients is not None:
            context.load_verify_locations(cadata=clients.pem)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _issue(self, name: str, usage: x509.ObjectIdentifier, days: int, *more: x509.ExtensionType) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.ExtendedKeyUsage([usage]), False)]
        extensions += [(extension, False) for extension in more]
        cert = self._signed(_name(name), key.public_key(), days, extensions)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Certificate(_pem(cert), private.decode())

    def _signed(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        days: int,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        ends = datetime.datetime.now(datetime.UTC) + days * _DAY
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(ends - abs(days) * _DAY - _DAY)
            .not_valid_after(ends)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()
