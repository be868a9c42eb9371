# Two stages: the first makes wheels and installs them into /opt/toril, the second has only that.
FROM python:3.13-slim AS build

WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src ./src
# The commit that `toril --version` says; there is no repository in here.
ARG TORIL_COMMIT=
# What is installed beside it: traces (OpenTelemetry). `--build-arg TORIL_EXTRAS=` leaves that out.
ARG TORIL_EXTRAS=[otel]
# Without pip in it, the environment holds toril and what it needs, and nothing else.
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".${TORIL_EXTRAS}" \
    && python -m venv --without-pip /opt/toril \
    && pip --python /opt/toril/bin/python install --no-cache-dir --no-index /wheels/*.whl


FROM python:3.13-slim

ENV PATH="/opt/toril/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1

# A fixed number, so that it can be named in volume permissions and security contexts.
RUN groupadd --gid 10001 toril \
    && useradd --uid 10001 --gid toril --no-log-init --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin toril

COPY --from=build /opt/toril /opt/toril

# What toril keeps in files where nothing else is configured (large answers, the SQLite ledger): mount a volume there.
RUN install --directory --owner=toril --group=toril --mode=0700 /var/lib/toril

USER 10001:10001
WORKDIR /var/lib/toril

EXPOSE 8080

# Says that the process answers; GET /ready says whether work moves. A port set by file or --port is not seen here.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + (os.environ.get('PORT') or '8080') + '/health', timeout=2)"]

ENTRYPOINT ["toril"]
CMD ["serve"]
