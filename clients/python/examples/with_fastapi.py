"""A FastAPI application that toril pushes the jobs of the queue `orders` to, on port 3000 until Ctrl-C.

With SECRET (`whsec_…`) the requests are signed, and others are refused.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from toril_client import AsyncClient, AsyncPushedJob
from toril_client.starlette import push_handler

TORIL = os.environ["TORIL"]
PORT = int(os.environ.get("PORT", "3000"))
SECRETS = os.environ.get("SECRET", "").split()


async def charge(pushed: AsyncPushedJob) -> dict[str, int]:
    await pushed.log(TORIL, f"charging {pushed.data['amount']}")
    await pushed.progress(TORIL, 50)
    return {"charged": pushed.data["amount"]}


@asynccontextmanager
async def register(_: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(TORIL, os.environ["TOKEN"]) as toril:
        url = f"http://127.0.0.1:{PORT}/charge"
        await toril.register_worker(os.environ.get("QUEUE", "orders"), url, concurrency=10, secrets=SECRETS)
    print("ready", flush=True)
    yield


app = FastAPI(lifespan=register)
app.post("/charge")(push_handler(TORIL, charge, secrets=SECRETS))

if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning")
