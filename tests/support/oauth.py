"""An OAuth server that gives access tokens to one client (RFC 6749 4.4), and misbehaves on request."""

import base64
from typing import Any
from urllib.parse import parse_qs

from tests.support.endpoint import Answer, Call, Endpoint, reply_json


class OAuthServer(Endpoint):
    """`issued` are the tokens that it has given, in order; `answer` replaces what it answers."""

    def __init__(self, client_id: str = "toril", secret: str = "s3cr3t", **options: Any) -> None:
        super().__init__(self._issue, **options)
        self.client_id = client_id
        self.secret = secret
        self.expires_in: int | None = 3600
        self.answer: Answer | None = None
        self.issued: list[str] = []

    @property
    def token_url(self) -> str:
        """Where tokens are."""
        return self.at("/oauth/token")

    def _issue(self, call: Call) -> Answer:
        if self.answer is not None:
            return self.answer
        pair = base64.b64encode(f"{self.client_id}:{self.secret}".encode()).decode()
        if call.header("authorization") != f"Basic {pair}":
            return reply_json({"error": "invalid_client", "error_description": str(call.headers)}, 401, "Unauthorized")
        assert parse_qs(call.body.decode())["grant_type"] == ["client_credentials"]
        token = f"token-{len(self.issued) + 1}"
        self.issued.append(token)
        life = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return reply_json({"access_token": token, "token_type": "Bearer"} | life)
