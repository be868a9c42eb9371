"""The SQL of the schema `toril`: its version goes up with every change, and it is made for one ledger."""

import hashlib
import re
from pathlib import Path

from toril.delivery.sql_enqueue import functions
from toril.delivery.sql_enqueue.functions import VERSION, script

DIGESTS = {
    1: "12fc879084d91ceeeffda7682f2cf50f252578ab613cbaa5003cab269c36588a",
    2: "34af0dcc9565abfb3af6b767502b08799a025352b189830b877bf19a10061222",
    3: "8b7d2dd9bd4be6e0783202f8e2af72c03f3813689dcdc5fd884f204ced1a262d",
}
"""What the files of each version are; a released one never changes."""


def test_a_change_of_the_sql_is_a_new_version() -> None:
    digest = hashlib.sha256(script(0, "ledger").encode()).hexdigest()
    assert max(DIGESTS) == VERSION
    assert digest == DIGESTS[VERSION], "raise VERSION once the former one was released, and note the digest here"


def test_every_sql_file_is_part_of_the_script() -> None:
    folder = Path(functions.__file__).parent / "sql"
    assert all(file.read_text().replace("@ledger@", "x") in script(0, "x") for file in folder.iterdir())


def test_tables_are_made_once_and_functions_each_time() -> None:
    assert "CREATE TABLE" in script(0, "x")
    assert "CREATE TABLE" not in script(VERSION, "x")
    assert "CREATE OR REPLACE FUNCTION toril.enqueue" in script(VERSION, "x")


def test_tables_of_the_ledger_are_named_with_its_schema() -> None:
    assert set(re.findall(r"(\S*)\.toril_\w+", script(0, '"my ledger"')[:])) == {'ledger"'}


def test_functions_that_run_with_the_owners_rights_have_a_fixed_search_path() -> None:
    definers = re.findall(r"SECURITY DEFINER\n(SET .*) AS", script(0, "x"))
    assert definers == ["SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on"] * 3
    assert script(0, "x").count("SECURITY DEFINER") == 3
