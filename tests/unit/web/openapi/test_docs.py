"""The page: complete in itself, and made for this server alone."""

import re
from html.parser import HTMLParser

from starlette.responses import Response

from tests.unit.web.asgi import request
from toril.web.openapi.docs import DocsRoutes
from toril.web.openapi.document import Served


def routes() -> DocsRoutes:
    docs = DocsRoutes("1.2.3", lambda: Served(docs.routes()))
    return docs


async def test_the_document_is_json_and_names_the_version() -> None:
    answer = await routes().openapi(request("/openapi.json"))
    assert answer.headers["content-type"] == "application/json"
    assert b'"version":"1.2.3"' in answer.body
    assert b'"/docs"' in answer.body


async def page() -> Response:
    return await routes().page(request("/docs"))


async def test_the_page_fetches_nothing_but_the_document() -> None:
    sources: list[tuple[str, str | None]] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            sources.extend((tag, value) for name, value in attrs if name in {"src", "href", "action"})

    html = (await page()).body.decode()
    Links().feed(html)
    assert {value for _, value in sources} <= {"openapi.json"}
    assert re.findall(r"https?://", html) == []
    assert "@import" not in html
    assert re.findall(r"fetch\(([^)]*)\)", html) == ['"openapi.json"']


async def test_the_content_security_policy_of_the_page_forbids_other_scripts() -> None:
    headers = (await page()).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert headers["x-content-type-options"] == "nosniff"


async def test_the_page_takes_nothing_of_the_document_for_html() -> None:
    html = (await page()).body.decode()
    assert "innerHTML" not in html
    assert "insertAdjacentHTML" not in html
