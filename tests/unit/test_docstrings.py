"""Docstrings and comments of the source are in plain English, as far as a machine can tell."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "toril"
# A function's docstring begins with a verb: "Return …", "Add …". These words begin something else.
NO_VERBS = re.compile(
    r"(A|An|The|This|That|These|Those|It|Its|All|Every|Each|One|No|At|Of|Up|For|How|What|Whether|Which|Who|Whose|When|Where"
    r"|Why|Called|Both|Here|There|Returns|Raises|Yields|Adds|Removes|Makes|Reads|Writes|[^\w\s].*|[a-z].*)\b"
)
# Words of riddles: a sentence with one of them can say who or what does something.
UNWANTED = re.compile(
    r"\b(nobody|whoever|somebody|any more|of its own|unless told|routes of this module)\b", re.IGNORECASE
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def function_docstrings(source: str) -> Iterator[tuple[str, str]]:
    """The names and docstrings of all functions and methods that are not properties."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTIONS) and not any("property" in ast.unparse(one) for one in node.decorator_list):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.name, text


def without_verb(source: str) -> list[str]:
    """The docstrings of functions that do not begin with a verb, by the names of the functions."""
    return [f"{name}: {text}" for name, text in function_docstrings(source) if NO_VERBS.match(text)]


def riddles(source: str) -> list[str]:
    """The lines that hold a word of riddles."""
    return [line.strip() for line in source.splitlines() if UNWANTED.search(line)]


def test_docstrings_say_in_plain_english_what_functions_do() -> None:
    found = {module.relative_to(SOURCE).as_posix(): module.read_text() for module in SOURCE.rglob("*.py")}
    faults = {name: [*without_verb(source), *riddles(source)] for name, source in found.items()}
    assert {name: lines for name, lines in faults.items() if lines} == {}


@pytest.mark.parametrize(
    "text", ["The routes of this module.", "What is not needed.", "Called by the server.", "`a` of b.", "returns it."]
)
def test_a_docstring_without_a_verb_is_found(text: str) -> None:
    assert without_verb(f'def f():\n    """{text}"""') == [f"f: {text}"]


def test_a_docstring_with_a_verb_passes() -> None:
    assert without_verb('def f():\n    """Return the routes."""') == []
    assert without_verb('@property\ndef f():\n    """The routes."""') == []


def test_a_docstring_that_is_a_riddle_is_found() -> None:
    assert riddles("# nobody waits for it\nx = 1") == ["# nobody waits for it"]
