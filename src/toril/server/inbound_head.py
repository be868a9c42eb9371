"""Faults in a request's head that the HTTP parser accepts: in `Host`, and in transfer codings. Pure.

RFC 9112 3.2 refuses a request without `Host`, or with two, with 400; 6.1 refuses an unknown transfer coding with 501. A
proxy that let them pass would send on a body without its coding, or a host that two servers read differently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from toril.core.errors import InvalidRequest, TorilError, UnknownTransferCoding
from toril.core.http.headers import Header, foreign_coding

_HOST = re.compile(rb"(?:\[[0-9A-Za-z.:%_~-]*\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?\Z")
_WITHOUT_HOST = frozenset({"0.9", "1.0"})


def head_fault(headers: Sequence[Header], version: str) -> TorilError | None:
    """Return why a request is refused; None if it is not.

    Args:
        headers: names in lower case.
        version: of HTTP, as in the request line: `1.1`.
    """
    hosts, host, coded = 0, b"", False
    for name, value in headers:
        if name == b"host":
            hosts += 1
            host = value
        elif name == b"transfer-encoding":
            coded = True
    if hosts != 1:
        if hosts:
            return InvalidRequest("There is more than one Host", field="host")
        if version not in _WITHOUT_HOST:
            return InvalidRequest("There is no Host", field="host")
    elif not _HOST.match(host):
        return InvalidRequest("Host is no host with or without a port", field="host")
    return UnknownTransferCoding() if coded and foreign_coding(headers) is not None else None
