"""Every block of the README and of the tutorials is run, on real servers, and prints what the page shows."""

from pathlib import Path

import pytest

from tests.support.documents import Reader, blocks, fits
from tests.support.ports import free_port
from tests.support.valkey import ValkeyProcess

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorial").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    toril, backend = str(free_port()), str(free_port())
    with ValkeyProcess(tmp_path / "store") as store:
        replaced = {
            "8080": toril, "3000,": f"{backend},", "127.0.0.1:3000": f"127.0.0.1:{backend}", "3000)": f"{backend})",
            "6379": str(store.port), "$ make test": "$ make -n test",
        }  # fmt: skip
        with Reader(tmp_path / "reader", ROOT, {"PORT": toril}, replaced) as reader:
            assert reader.follow(page.read_text()) == len(list(blocks(page.read_text()))) > 3


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("OK", "OK\n", True),
        ("OK", "Not OK\n", False),
        ('{"id":"1",…', '{"id":"1","name":"a"}\n', True),
        ("answered 402 after 4 ms", "answered 402 after 17 ms\n", True),
        ("HTTP/1.1 200 OK\n…\ndone", "HTTP/1.1 200 OK\na: b\n\ndone\n", True),
        ("HTTP/1.1 200 OK\n…\ndone", "HTTP/1.1 200 OK\na: b\n", False),
        ("", "an error\n", False),
    ],
)
def test_shown_and_printed_outputs_are_compared(shown: str, printed: str, same: bool) -> None:
    assert fits(shown, printed) is same
