import shlex
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

SUITE = """
import pytest
from hypothesis import given, strategies
from tests.support import failure_report

class Server:
    port = 4711
    def __init__(self, log_path):
        self.log_path = log_path
        log_path.write_text("before the test\\n")
    def log(self):
        return self.log_path.read_text()
    def print(self, text):
        with self.log_path.open("a") as log:
            log.write(text)

@pytest.fixture(scope="session")
def server(request, tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server") / "toril.log")
    failure_report.watch(request.config, made)
    yield made
    failure_report.unwatch(request.config, made)

def test_passes(server):
    server.print("during the test that passes\\n")

@pytest.mark.parametrize("name", ["a b"])
def test_fails(server, name):
    server.print("x" * 9000 + "\\nduring the test that fails\\n")
    assert False

@given(strategies.integers())
def test_fails_with_examples(server, number):
    assert number < 10
"""


@pytest.fixture
def printed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(SUITE)
    options = ("-p", "tests.support.failure_report", "-p", "no:xdist", "-p", "no:schemathesis", "--hypothesis-seed=7")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1, failed=2)
    return result.stdout.str()


def test_a_failed_test_shows_the_last_lines_its_servers_logged_during_it(printed: str) -> None:
    assert "toril on port 4711 logged (" in printed
    assert "toril.log)" in printed
    assert "\n…\nduring the test that fails\n" in printed
    assert "before the test" not in printed
    assert "during the test that passes" not in printed


def test_a_failed_test_shows_the_command_that_repeats_it(printed: str) -> None:
    file = "test_a_failed_test_shows_the_command_that_repeats_it.py"
    assert f"\n{shlex.join(['.venv/bin/pytest', f'{file}::test_fails[a b]'])}\n" in printed
    assert f"\n.venv/bin/pytest {file}::test_fails_with_examples --hypothesis-seed=7\n" in printed
