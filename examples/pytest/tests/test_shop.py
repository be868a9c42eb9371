import json

from shop import place_order

from toril.testing.running_gateway import FreshQueue, RunningGateway


def test_orders_are_charged(toril_queue: FreshQueue, worker: str) -> None:
    toril_queue.register(worker, concurrency=5)
    ids = [toril_queue.add("charge", {"amount": amount}) for amount in range(1, 11)]
    assert toril_queue.drain() == {"completed": 10, "failed": 0}
    assert toril_queue.job(ids[0])["returnvalue"] == {"charged": 1}


def test_an_order_of_nothing_fails_and_is_not_tried_again(toril_queue: FreshQueue, worker: str) -> None:
    toril_queue.register(worker)
    order = toril_queue.add("charge", {"amount": 0}, attempts=1)
    assert toril_queue.drain() == {"completed": 0, "failed": 1}
    assert toril_queue.job(order)["failedReason"] == "Unprocessable Entity"


def test_placing_an_order_adds_a_job_and_tells_the_warehouse(
    toril_gateway: RunningGateway, toril_queue: FreshQueue, worker: str
) -> None:
    toril_queue.register(worker)
    order = place_order(toril_gateway.url, toril_gateway.token, toril_queue.name, 4711)
    toril_queue.drain()
    assert toril_queue.job(order)["returnvalue"] == {"charged": 4711}
    assert json.loads(toril_gateway.wait_for("warehouse")[-1]["body"]) == {"amount": 4711}
