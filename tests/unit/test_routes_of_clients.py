"""Which documented route each client has, by which method, and why others are left out. A new route must be decided on.

A client's method is named as its source has it; a reason is a text with a blank.
"""

import ast
import re
from pathlib import Path

import pytest

from tests.unit.proxy.test_description import document_of
from toril.config.settings import Settings
from toril.delivery.rules.target import TargetSpec
from toril.proxy.rules.upstream import ProxyPolicy, Upstream

CLIENTS = Path(__file__).parents[2] / "clients"
DOCUMENT = document_of(
    Settings(
        targets=(TargetSpec(name="billing", url="http://target.example"),),
        proxy=ProxyPolicy(upstreams=(Upstream(prefix="/api", url="http://upstream.example"),), api_path="/"),
    )
)
METHODS = {"get", "put", "post", "delete", "patch"}

OPERATORS = "work of operators: the dashboard, the commands and plain HTTP do it"
INSTANCE = "about the instance, for probes, scrapers and people"
RAW = "raw bytes of what was sent, for people who look into one delivery"
SCHEDULED = "schedulers and flows are set once, by configuration or a BullMQ client: not yet in the clients"
LEASES = "the clients work over a WebSocket or in a web handler; leases are for programs without a client"
PROXIED = "looks into one proxied request, for people; programs use the jobs API"
STREAMED = "the clients read events by SSE, which work behind every proxy"

AGENTS = "for agents, which have MCP clients"

# The methods in Python, TypeScript and Go; or one reason for all three.
ROUTES: dict[str, tuple[str, str, str] | str] = {
    "POST /queues/{queue}/jobs": ("add_bulk", "addBulk", "AddBulk"),
    "GET /queues/{queue}/jobs": ("jobs", "jobs", "List"),
    "GET /queues/{queue}/jobs/{id}": ("get", "get", "Get"),
    "GET /queues/{queue}/jobs/{id}/result": ("result", "result", "Wait"),
    "GET /queues/{queue}/jobs/{id}/logs": ("logs", "logs", "Logs"),
    "POST /queues/{queue}/jobs/{id}/logs": ("log", "log", "Log"),
    "POST /queues/{queue}/jobs/{id}/progress": ("progress", "progress", "Progress"),
    "POST /queues/{queue}/jobs/{id}/complete": ("complete", "complete", "Complete"),
    "POST /queues/{queue}/jobs/{id}/fail": ("fail", "fail", "Fail"),
    "POST /queues/{queue}/jobs/{id}/extend": ("extend", "extend", "Extend"),
    "POST /queues/{queue}/jobs/{id}/release": ("release", "release", "Release"),
    "POST /queues/{queue}/jobs/{id}/retry": ("retry", "retry", "Retry"),
    "POST /queues/{queue}/jobs/{id}/promote": ("promote", "promote", "Promote"),
    "DELETE /queues/{queue}/jobs/{id}": ("remove", "remove", "Remove"),
    "GET /queues/{queue}/search": ("search", "search", "Search"),
    "POST /queues/{queue}/bulk": ("bulk", "bulk", "Bulk"),
    "POST /queues/{queue}/pause": ("pause", "pause", "Pause"),
    "POST /queues/{queue}/resume": ("resume", "resume", "Resume"),
    "GET /queues/{queue}/events": ("events", "events", "Events"),
    "POST /workers": ("register_worker", "registerWorker", "Register"),
    "GET /workers": ("workers", "workers", "Workers"),
    "DELETE /workers/{queue}": ("unregister_worker", "unregisterWorker", "Unregister"),
    "GET /ws/queues/{queue}/process/{concurrency}": ("worker", "worker", "Worker"),
    "POST /enqueue": ("enqueue", "enqueue", "Enqueue"),
    "GET /jobs": ("list", "list", "Deliveries"),
    "GET /jobs/{job}": ("wait", "wait", "WaitDelivery"),
    "DELETE /jobs/{job}": ("cancel", "cancel", "CancelDelivery"),
    "GET /jobs/{job}/response/body": ("response_body", "responseBody", "DeliveryResponse"),
    "GET /targets/{target}/dead-letters": ("dead_letters", "deadLetters", "DeadLetters"),
    "POST /targets/{target}/dead-letters/replay": ("replay", "replay", "ReplayDeadLetters"),
    "DELETE /targets/{target}/dead-letters/{job}": ("purge", "purge", "PurgeDeadLetter"),
    "GET /targets": ("targets", "list", "Targets"),
    "GET /targets/{target}": ("target", "get", "Target"),
    "POST /targets/{target}/pause": ("pause_target", "pause", "PauseTarget"),
    "POST /targets/{target}/resume": ("resume_target", "resume", "ResumeTarget"),
    "GET /api/{path}": ("submit", "submit", "Submit"),
    "POST /api/{path}": ("submit", "submit", "Submit"),
    "PUT /api/{path}": ("submit", "submit", "Submit"),
    "PATCH /api/{path}": ("submit", "submit", "Submit"),
    "DELETE /api/{path}": ("submit", "submit", "Submit"),
    "GET /__jobs/{id}": ("wait", "wait", "Wait"),
    "GET /__jobs/{id}/content": ("response", "response", "Response"),
    "DELETE /__jobs/{id}": ("cancel", "cancel", "Cancel"),
    "POST /enqueue/batch": "one envelope a call has its own answer and its own key; a batch waits for a need",
    "GET /jobs/{job}/response": "replays an answer for browsers; the clients read its status and its body",
    "GET /jobs/{job}/envelope": RAW,
    "GET /jobs/{job}/envelope/body": RAW,
    "GET /queues": OPERATORS,
    "GET /queues/{queue}": OPERATORS,
    "POST /queues/{queue}/drain": OPERATORS,
    "POST /queues/{queue}/clean": OPERATORS,
    "POST /queues/{queue}/obliterate": OPERATORS,
    "POST /queues/{queue}/retry": OPERATORS,
    "POST /queues/{queue}/promote": OPERATORS,
    "GET /queues/{queue}/concurrency": OPERATORS,
    "PUT /queues/{queue}/concurrency": OPERATORS,
    "DELETE /queues/{queue}/concurrency": OPERATORS,
    "GET /queues/{queue}/rate-limit": OPERATORS,
    "PUT /queues/{queue}/rate-limit": OPERATORS,
    "DELETE /queues/{queue}/rate-limit": OPERATORS,
    "PUT /queues/{queue}/rate-limit/hold": OPERATORS,
    "DELETE /queues/{queue}/rate-limit/hold": OPERATORS,
    "GET /queues/{queue}/metrics": OPERATORS,
    "GET /queues/{queue}/priorities": OPERATORS,
    "POST /queues/{queue}/trim-events": OPERATORS,
    "POST /queues/{queue}/remove-orphans": OPERATORS,
    "GET /queues/{queue}/deduplication/{key}": OPERATORS,
    "DELETE /queues/{queue}/deduplication/{key}": OPERATORS,
    "DELETE /queues/{queue}/jobs/{id}/logs": OPERATORS,
    "DELETE /queues/{queue}/jobs/{id}/children": OPERATORS,
    "POST /queues/{queue}/jobs/{id}/detach": OPERATORS,
    "PUT /queues/{queue}/jobs/{id}/data": OPERATORS,
    "PUT /queues/{queue}/jobs/{id}/priority": OPERATORS,
    "PUT /queues/{queue}/jobs/{id}/delay": OPERATORS,
    "GET /queues/{queue}/jobs/{id}/attempts": OPERATORS,
    "POST /queues/{queue}/jobs/{id}/copy": OPERATORS,
    "GET /workers/{queue}": OPERATORS,
    "POST /workers/{queue}/pause": OPERATORS,
    "POST /workers/{queue}/resume": OPERATORS,
    "GET /connections": OPERATORS,
    "GET /stats": OPERATORS,
    "GET /upstreams": OPERATORS,
    "GET /audit": OPERATORS,
    "POST /reload": OPERATORS,
    "POST /flows": SCHEDULED,
    "GET /queues/{queue}/jobs/{id}/flow": SCHEDULED,
    "GET /queues/{queue}/schedulers": SCHEDULED,
    "GET /schedulers": SCHEDULED,
    "GET /queues/{queue}/schedulers/{id}": SCHEDULED,
    "PUT /queues/{queue}/schedulers/{id}": SCHEDULED,
    "DELETE /queues/{queue}/schedulers/{id}": SCHEDULED,
    "POST /queues/{queue}/lease": LEASES,
    "POST /queues/{queue}/settle": LEASES,
    "GET /events": "the events of several queues at once, for dashboards; the clients follow one queue each",
    "GET /ws/queues/{queue}": "commands of BullMQ Proxy's clients; the clients add and read over HTTP",
    "GET /ws/queues/{queue}/events": STREAMED,
    "GET /proxied/{id}": PROXIED,
    "DELETE /proxied/{id}": PROXIED,
    "GET /proxied/{id}/request": PROXIED,
    "GET /proxied/{id}/response": PROXIED,
    "POST /proxied/{id}/replay": PROXIED,
    "GET /queues/{queue}/groups": ("list", "list", "Groups"),
    "GET /queues/{queue}/groups/{group}": ("get", "get", "Group"),
    "PUT /queues/{queue}/groups/{group}": ("set", "set", "SetGroup"),
    "DELETE /queues/{queue}/groups/{group}": ("reset", "reset", "ResetGroup"),
    "POST /queues/{queue}/groups/{group}/pause": ("pause", "pause", "PauseGroup"),
    "POST /queues/{queue}/groups/{group}/resume": ("resume", "resume", "ResumeGroup"),
    "POST /queues/{queue}/groups/{group}/drain": ("drain", "drain", "DrainGroup"),
    "GET /doctor": OPERATORS,
    "GET /ws/targets/{target}/listen/{concurrency}": "what `toril listen --target` speaks, while somebody develops",
    "POST /mcp": AGENTS,
    "GET /": INSTANCE,
    "GET /health": INSTANCE,
    "GET /ready": INSTANCE,
    "GET /metrics": INSTANCE,
    "GET /openapi.json": INSTANCE,
    "GET /docs": INSTANCE,
    "GET /whoami": INSTANCE,
}


def documented() -> set[str]:
    return {
        f"{method.upper()} {path}"
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method in METHODS
    }


def test_every_documented_route_is_in_the_clients_or_left_out_for_a_reason() -> None:
    assert sorted(documented() - set(ROUTES)) == [], "decide: a method of each client, or a reason"
    assert sorted(set(ROUTES) - documented()) == [], "there are no such routes any longer"


def python_methods() -> set[str]:
    sources = (CLIENTS / "python/src/toril_client").glob("*.py")
    return {
        method.name
        for source in sources
        for kind in ast.walk(ast.parse(source.read_text()))
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def typescript_methods() -> set[str]:
    sources = (CLIENTS / "typescript/src").glob("*.ts")
    return {
        name
        for source in sources
        for name in re.findall(r"^  (?:async )?\*?(\w+)[(<]", source.read_text(), re.MULTILINE)
    }


def go_methods() -> set[str]:
    sources = (path for path in (CLIENTS / "go").glob("*.go") if not path.name.endswith("_test.go"))
    return {
        name for source in sources for name in re.findall(r"^func \([^)]+\) (\w+)\(", source.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("client", [0, 1, 2], ids=["python", "typescript", "go"])
def test_the_clients_have_the_methods(client: int) -> None:
    named = {methods[client] for methods in ROUTES.values() if isinstance(methods, tuple)}
    has = (python_methods, typescript_methods, go_methods)[client]()
    assert sorted(named - has) == []


def test_what_is_left_out_has_a_reason() -> None:
    assert [route for route, reason in ROUTES.items() if isinstance(reason, str) and " " not in reason] == []
