"""A Django project in one file that toril pushes the jobs of the queue `orders` to, on port 3000 until Ctrl-C.

With SECRET (`whsec_…`) the requests are signed, and others are refused.
"""

import os
from wsgiref.simple_server import make_server

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

from toril_client import Client, PushedJob
from toril_client.django import push_handler

TORIL = os.environ["TORIL"]
PORT = int(os.environ.get("PORT", "3000"))
SECRETS = os.environ.get("SECRET", "").split()

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.urandom(32).hex(),
)


def charge(pushed: PushedJob) -> dict[str, int]:
    pushed.log(TORIL, f"charging {pushed.data['amount']}")
    pushed.progress(TORIL, 50)
    return {"charged": pushed.data["amount"]}


urlpatterns = [path("charge", push_handler(TORIL, charge, secrets=SECRETS))]

if __name__ == "__main__":
    server = make_server("127.0.0.1", PORT, get_wsgi_application())
    with Client(TORIL, os.environ["TOKEN"]) as toril:
        url = f"http://127.0.0.1:{PORT}/charge"
        toril.register_worker(os.environ.get("QUEUE", "orders"), url, concurrency=10, secrets=SECRETS)
    print("ready", flush=True)
    server.serve_forever()
