import subprocess
import sys

import pytest

from toril import testing


@pytest.mark.parametrize("name", testing.__all__)
def test_each_fake_is_exported_under_its_name(name: str) -> None:
    assert getattr(testing, name).__name__ == name


def test_an_unknown_name_raises_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        testing.Nothing  # noqa: B018 - asked for


def test_the_plugin_that_pytest_loads_everywhere_imports_nothing_else_of_toril() -> None:
    code = (
        "import sys, toril.testing.pytest_plugin as _; print(*sorted(m for m in sys.modules if m.startswith('toril')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "toril",
        "toril.testing",
        "toril.testing.pytest_plugin",
        "toril.testing.running_gateway",
    ]
