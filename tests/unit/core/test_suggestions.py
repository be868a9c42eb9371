from toril.core.suggestions import did_you_mean


def test_the_nearest_known_name_is_suggested_and_nothing_else() -> None:
    assert did_you_mean("prot", ["host", "port"]) == "; did you mean port?"
    assert did_you_mean("colour", ["host", "port"]) == ""
    assert did_you_mean("port", []) == ""
