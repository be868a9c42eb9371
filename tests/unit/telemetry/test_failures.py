from toril.telemetry.failures import MOST_CHARACTERS, Failures


def test_equal_reasons_of_a_queue_are_counted_together() -> None:
    failures = Failures()
    for queue in ("orders", "orders", "mails"):
        failures.note(queue, "503 Service Unavailable")
    assert failures.taken() == {("orders", "503 Service Unavailable"): 2, ("mails", "503 Service Unavailable"): 1}
    assert failures.taken() == {}


def test_a_long_reason_is_cut() -> None:
    failures = Failures()
    failures.note("orders", "x" * 10_000)
    assert failures.taken() == {("orders", "x" * MOST_CHARACTERS): 1}


def test_reasons_that_a_receiver_makes_up_are_bounded_by_queue_and_in_all() -> None:
    failures = Failures()
    for queue in range(100):
        for number in range(100):
            failures.note(str(queue), f"error {number}")
            failures.note(str(queue), "error 0")
    noted = failures.taken()
    assert len(noted) == 200
    assert noted["0", "error 0"] == 101
    assert sum(queue == "0" for queue, _ in noted) == 20
    failures.note("99", "error")
    assert failures.taken() == {("99", "error"): 1}
