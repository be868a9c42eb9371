import pytest

from tests.support.likely_broken import AT_MOST, JOURNEYS, ROOT, divided, likely_broken

SOURCES = {
    "tests/conformance/test_leases.py": "from toril.bullmq.leases import Leases\n",
    "tests/conformance/test_ports.py": "from toril.bullmq import keys, ports\n",
    "tests/journeys/test_add_push_result.py": "from tests.support.endpoint import Endpoint\n",
    "tests/journeys/test_sockets.py": "from tests.support.sockets import connect\n",
    "tests/journeys/test_other.py": "from toril.bullmq.leases_of_others import Leases\n",
}


def test_a_changed_test_comes_first() -> None:
    changed = ["tests/journeys/test_sockets.py", "src/toril/queues/jobs.py"]
    assert likely_broken(changed, SOURCES) == [
        "tests/journeys/test_sockets.py",
        "tests/journeys/test_add_push_result.py",
    ]


def test_a_changed_module_brings_the_tests_that_import_it() -> None:
    assert "tests/conformance/test_leases.py" in likely_broken(["src/toril/bullmq/leases.py"], SOURCES)
    assert "tests/journeys/test_other.py" not in likely_broken(["src/toril/bullmq/leases.py"], SOURCES)
    assert "tests/conformance/test_ports.py" in likely_broken(["src/toril/bullmq/ports/__init__.py"], SOURCES)


def test_a_changed_support_module_brings_the_tests_that_import_it() -> None:
    assert likely_broken(["tests/support/endpoint.py"], SOURCES) == ["tests/journeys/test_add_push_result.py"]


def test_the_nearest_folder_decides() -> None:
    assert likely_broken(["src/toril/queues/sockets/frames.py"], SOURCES) == ["tests/journeys/test_sockets.py"]


def test_files_beyond_a_minute_are_left_out() -> None:
    many = [f"tests/journeys/test_{number}.py" for number in range(AT_MOST + 1)]
    assert divided(many, [], dict.fromkeys(many, "")) == (many[:-1], many[-1:])


def test_of_the_files_with_a_browser_only_a_changed_one_is_run() -> None:
    sources = dict.fromkeys(["pages", "doors"], "from tests.support.browser import Tab") | {"api": ""}
    assert divided(["pages", "doors", "api"], ["doors"], sources) == (["doors", "api"], ["pages"])


def test_without_changes_no_tests_are_chosen() -> None:
    assert likely_broken([], SOURCES) == []
    assert likely_broken(["README.md", "tests/journeys/test_deleted.py"], SOURCES) == []


@pytest.mark.parametrize("folder", JOURNEYS)
def test_each_folder_and_each_of_its_journeys_exists(folder: str) -> None:
    assert (ROOT / folder).exists()
    assert [path for path in JOURNEYS[folder] if not (ROOT / path).is_file()] == []
