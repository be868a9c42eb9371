"""The Python client of toril: jobs, results, events and workers over HTTP and WebSocket.

with Client("http://127.0.0.1:8080", "TOKEN") as toril:
    job = toril.add("orders", "charge", {"amount": 42})
    print(toril.result("orders", job.id, wait_s=30))
"""

from toril_client.calls import BulkOptions, BulkResult
from toril_client.client import AsyncClient, Client
from toril_client.deliveries import Delivery, DeliveryFilter, EnvelopeOptions, Replayed, ReplayOptions
from toril_client.endpoint import EndpointOptions, Policy, Status
from toril_client.errors import JobFailed, RetryIn, TorilError, Unrecoverable
from toril_client.groups import Group, GroupLimits, GroupOption, GroupRate
from toril_client.handling import Later
from toril_client.jobs import Event, Job, NewJob
from toril_client.proxied import NotQueued, ProxiedJob, ProxyClient
from toril_client.push import AsyncPushedJob, PushedJob
from toril_client.worker import Task, Worker

__all__ = [
    "AsyncClient",
    "AsyncPushedJob",
    "BulkOptions",
    "BulkResult",
    "Client",
    "Delivery",
    "DeliveryFilter",
    "EndpointOptions",
    "EnvelopeOptions",
    "Event",
    "Group",
    "GroupLimits",
    "GroupOption",
    "GroupRate",
    "Job",
    "JobFailed",
    "Later",
    "NewJob",
    "NotQueued",
    "Policy",
    "ProxiedJob",
    "ProxyClient",
    "PushedJob",
    "ReplayOptions",
    "Replayed",
    "RetryIn",
    "Status",
    "Task",
    "TorilError",
    "Unrecoverable",
    "Worker",
]
