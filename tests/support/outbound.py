"""A folder with an authority and secrets, and the servers that toril goes to or through in one test."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.support.authority import Authority
from tests.support.endpoint import Behaviour, Endpoint
from tests.support.forward_proxy import CountingProxy
from tests.support.oauth import OAuthServer
from tests.support.toril import TorilProcess


class Outside:
    """A toril, once it was started, and what is outside of it; all of it ends with `stack`."""

    def __init__(self, folder: Path, stack: ExitStack, redis_url: str) -> None:
        self.folder = folder
        self.stack = stack
        self.redis_url = redis_url
        self.toril: TorilProcess
        self.authority = Authority()
        self.ca_file = str(self.authority.write(folder / "ca.pem"))

    @classmethod
    @contextmanager
    def of(cls, folder: Path, redis_url: str) -> Iterator[Self]:
        """One for the length of a block. Its toril must have been started, and have nothing to complain of."""
        with ExitStack() as stack:
            made = cls(folder, stack, redis_url)
            yield made
            assert made.toril.complaints() == []

    def file(self, name: str, text: str) -> str:
        """A file of the folder, written as editors do."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.replace(self.folder / name)
        return str(self.folder / name)

    def client(self, name: str = "client") -> dict[str, str]:
        """A client certificate of the authority, in the same files each time, as keys of `tls`."""
        certificate = self.authority.client(name)
        return {
            "ca_file": self.ca_file,
            "cert_file": self.file("client.pem", certificate.cert),
            "key_file": self.file("client-key.pem", certificate.key),
        }

    def secure(self, *hosts: str, mutual: bool = False, days: int = 30, behaviour: Behaviour | None = None) -> Endpoint:
        """A server with TLS, whose certificate is of the authority; `mutual`, it wants one of a client."""
        certificate = self.authority.server(*hosts, days=days)
        tls = self.authority.server_tls(certificate, self.folder, self.authority if mutual else None)
        return self.stack.enter_context(Endpoint(behaviour, tls=tls))

    def plain(self, behaviour: Behaviour | None = None) -> Endpoint:
        """A server without TLS."""
        return self.stack.enter_context(Endpoint(behaviour))

    def oauth(self) -> OAuthServer:
        """An OAuth server."""
        return self.stack.enter_context(OAuthServer())

    def oauth_keys(self, server: OAuthServer, secret: str = "s3cr3t", **more: Any) -> dict[str, Any]:
        """`auth` for a client of this server."""
        file = self.file("client-secret", secret)
        return {"scheme": "oauth2", "token_url": server.token_url, "client_id": "toril", "secret_file": file} | more

    def proxy(self, hosts: dict[str, int] | None = None, credentials: str | None = None) -> CountingProxy:
        """A forward proxy."""
        return self.stack.enter_context(CountingProxy(hosts, credentials))
