"""What is wrong with a request's head that the HTTP parser lets pass: `Host`, and transfer codings. Pure.

RFC 9112 3.2 has a request with none or two of the one refused with 400, 6.1 a request in an unknown one of the other
with 501. Who lets them pass has a body in a coding that nothing says any more, or a host that two servers read as two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from toril.core.errors import InvalidRequest, TorilError, UnknownTransferCoding
from toril.core.headers import Header, foreign_coding

_HOST = re.compile(rb"(?:\[[0-9A-Za-z.:%_~-]*\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?\Z")
_WITHOUT_HOST = frozenset({"0.9", "1.0"})


def head_fault(headers: Sequence[Header], version: str) -> TorilError | None:
    """Return why a request is refused; None where it is not.

    Args:
        headers: names in lower case.
        version: of HTTP, as in the request line: `1.1`.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        if hosts:
            return InvalidRequest("There is more than one Host", field="host")
        if version not in _WITHOUT_HOST:
            return InvalidRequest("There is no Host", field="host")
    elif not _HOST.match(hosts[0]):
        return InvalidRequest("Host is no host with or without a port", field="host")
    return None if foreign_coding(headers) is None else UnknownTransferCoding()
