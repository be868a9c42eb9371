"""What each setting means, in a sentence or two. `docs/reference` is generated from these texts and the settings.

Each key of `config.table`, `proxy.settings` and `proxy.upstream_settings` has one text here, and a test finds a key
without one. A text may use Markdown and links relative to `docs/reference`.
"""

SETTINGS_MEAN = {
    "host": "The address to listen on. An address with `:` is IPv6, and `::` means every address of both families "
    "(every IPv4 address on a machine without IPv6).",
    "port": "The port to listen on. `0` takes a free port, and the log names it.",
    "auth_tokens": "API tokens with all rights. Without any token, every request that needs one is refused.",
    "tokens": "API tokens with limited rights. In the file only; see [Tokens](#tokens).",
    "redis": "`none` in place of the section: there is no Redis, and the delivery door works from the ledger in "
    "PostgreSQL; see [PostgreSQL alone](../how-to/postgresql-alone.md). It wins over `REDIS_URL`.",
    "redis.url": "`redis://`, `rediss://` (TLS), `unix://`, or `redis+sentinel://` and `rediss+sentinel://` "
    "([Sentinel](../how-to/sentinel.md)), with user, password and `/db`. The query options "
    "`ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` and `ssl_cert_reqs=none` (do not verify) work.",
    "redis.host": "The host of Redis.",
    "redis.port": "The port of Redis.",
    "redis.username": "An ACL user. Used only together with a password.",
    "redis.password": "The password of Redis.",
    "redis.db": "The number of the database.",
    "redis.tls": "`true` connects with TLS.",
    "redis.ca_file": "The certificate authorities to trust instead of the system's.",
    "redis.cert_file": "A client certificate.",
    "redis.key_file": "The key of the client certificate, if the certificate file does not contain it.",
    "redis.cluster": "`true` if the address is a node of a Redis Cluster; see [Redis "
    "Cluster](../how-to/redis-cluster.md).",
    "acknowledge": "What a write must have reached before it is [acknowledged](../how-to/acknowledgements.md): the "
    "`memory` of Redis, its disk (`fsync`), or replicas (`replicas:N`).",
    "acknowledge_timeout": "How long that may take; then the answer is 503 `unconfirmed`.",
    "redis.sentinels": "`host:port` of each [Sentinel](../how-to/sentinel.md); 26379 is the port where none is "
    "written. They say which server is the master; user, password, database and TLS are those of the master.",
    "redis.sentinel_master": "The name under which the Sentinels know the master.",
    "redis.sentinel_username": "An ACL user of the Sentinels. Used only together with a password.",
    "redis.sentinel_password": "The password of the Sentinels, which is not that of the master.",
    "redis.sentinel_tls": "`true` connects to the Sentinels with TLS. With a URL, that is what its scheme says.",
    "redis.command_timeout": "How long a command may wait for its answer, plus 0.2 ms for each command in flight (a "
    "request may add thousands of jobs). A request waits this long for a connection. After that it gets `503`.",
    "redis.connect_timeout": "How long it may take to connect to Redis, TLS and login included.",
    "queue_prefix": "The prefix of BullMQ's keys. Use the same one in all programs that share these queues.",
    "queue_cache_size": "For how many queues to keep the prepared keys of an add in memory, about 1 KB each.",
    "min_queue_name_length": "Shorter queue names are refused.",
    "max_queue_name_length": "Longer queue names are refused.",
    "max_body_bytes": "Requests with a larger body get `413`.",
    "max_head_bytes": "Requests with a larger head, or with more framing around the chunks of the body (extensions, "
    "trailers), get `431`; see [Connections](#connections).",
    "head_timeout": "How long the head of a request may take to arrive completely.",
    "body_timeout": "How long a request body may make no progress.",
    "idle_timeout": "How long a kept-alive connection may be without a request. Make it longer than the proxy in "
    "front keeps its own connections.",
    "redact": "Paths of what tokens without `payloads:read` see as `(hidden)`, beside [the usual headers]"
    "(rights.md#what-is-hidden): `data.card.*`, `returnvalue.token`, `progress.x`, `headers.x-key`. `*` is any name; "
    "in a list, a path goes on into every element.",
    "dashboard.enabled": "`false` takes the [dashboard](../how-to/dashboard.md) away. What it shows and "
    "does is the API's, under the rights of the token that a person logs in with.",
    "dashboard.path": "Where the dashboard is. With upstreams it is below `apiPath` like the rest of the API.",
    "mcp.enabled": "`false` takes the [tools for agents](../how-to/agents.md) at `/mcp` away. They are on because a "
    "token can do nothing there that it cannot do at the other routes, and because nothing goes without a token.",
    "cors.origins": "Origins of web pages that may call toril from a browser, such as `https://app.example`; `*` is "
    "every origin. Without any, CORS is off. Pages may send the request headers that toril reads, and read the "
    "response headers that its clients need, such as `Retry-After`, `toril-code` and `Location`.",
    "cors.headers": "Request headers that such a page may send beside those, such as headers for an upstream.",
    "shutdown.delay": "How long requests are still served after SIGTERM, while `/ready` already answers `503`. It "
    "counts from the first `503` that each address got from `/ready`, and lasts at most twice this time; see [Reverse "
    "proxies](../how-to/reverse-proxies.md#how-toril-leaves). `0` refuses requests at once.",
    "workers.hash": "The Redis hash of registered workers.",
    "workers.stream": "The Redis stream that announces changes to this hash. (The odd spelling is BullMQ Proxy's.)",
    "workers.stream_max_len": "How many announcements the stream keeps.",
    "engine.lock": "How long the lock of a job lives without renewal. After this time other instances take over the "
    "jobs of a toril that was killed.",
    "engine.stalled_interval": "How often to look for jobs whose lock has expired; once per interval in the whole "
    "fleet.",
    "engine.poll_interval": "How often to look for jobs without a notification. A safety net.",
    "engine.grace": "How long jobs in flight may take to finish at shutdown.",
    "engine.connect_timeout": "How long it may take to connect to an endpoint. The `timeout` of the worker still "
    "covers the whole request.",
    "engine.max_response_bytes": "A larger answer of an endpoint fails the attempt.",
    "engine.max_response_head_bytes": "How much of an answer may be something other than its body: status line, "
    "headers, framing and trailers, those of informational answers included. More fails the attempt. The connection "
    "to an upstream whose answer is passed through is closed.",
    "engine.marker_shard": "How many queues wait on one Redis connection.",
    "engine.presence_connections": "How many queues at most hold a connection that shows dashboards (`getWorkers`) "
    "that a worker is on the queue. `0` holds none.",
    "engine.presence_for": "How long after its last job a queue holds such a connection.",
    "egress.policy": "Where registered endpoints may be: `internal` or `public`; see [Egress](#egress).",
    "egress.allow": "Networks and hosts that are exempt from the policy.",
    "egress.deny": "Networks and hosts that are refused even if they are allowed elsewhere.",
    "workers.outbound": "The way to registered workers, by their hosts: certificates, a proxy, access tokens. In the "
    "file only; see [Private authorities, OAuth and proxies](../how-to/outbound.md#registered-workers).",
    "targets": "Where deliveries go. In the file only; see [Targets](#targets).",
    "ledger.url": "Where deliveries are recorded: `postgresql://user:password@host/database`, "
    "`sqlite:////absolute/path`, or `none` for Redis alone. Used only with `targets`.",
    "payloads.url": "Where bodies over the threshold are stored: `s3://bucket/prefix` or `file:///folder`. Without "
    "it, bodies of deliveries stay in the ledger, [answers of upstreams](proxy.md#large-answers) stay in Redis up to "
    "`payloads.redis_max`, and longer answers are stored in `./toril-payloads`.",
    "payloads.threshold": "Bodies longer than this many bytes are stored there.",
    "payloads.redis_max": "Without `payloads.url`: answers of upstreams up to this many bytes stay in Redis.",
    "payloads.endpoint": "The address of an S3-compatible store other than Amazon's. `AWS_ENDPOINT_URL` does the same.",
    "payloads.region": "The region of the store. Keys come from the `AWS_…` variables, a web identity, the container "
    "or the machine.",
    "max_body": "Envelopes with a larger body, decoded, get `413`.",
    "events.target": "The target to which [events](delivery.md#events) are delivered. Without it there are none.",
    "events.types": "Which types of events are delivered, with `*` as a wildcard; a list, or a text with commas.",
    "events.stuck_after": "After how long the event `queue.stuck` says that the oldest job of a queue still waits.",
    "delivery.lease": "How long after the deadline of its attempt a worker is considered lost.",
    "delivery.recover_every": "How often the queues are compared with the ledger.",
    "delivery.janitor_every": "How often deliveries that are past their retention are removed.",
    "metrics.max_queues": "How many queues `/metrics` shows by name. The others are summed up as `other`.",
    "log.level": "`debug`, `info`, `warning` or `error`.",
    "log.format": "`human`, `json`, or `auto`: human on a terminal, JSON otherwise.",
}

PROXY_SETTINGS_MEAN = {
    "listenAddress": "`host:port`. Without a host, all addresses of both families (IPv4 and IPv6). `TORIL_HOST`, "
    "`PORT`, `--host` and `--port` win over it.",
    "redis.addr": "`host:port` of Redis. `redis.password` and `redis.db` belong beside it; empty means no password "
    "and database 0. `REDIS_URL` and its kin win over them.",
    "queue": "The start of the names of the BullMQ queues. Instances with different values do not see each other's "
    "jobs.",
    "concurrency": "How many requests each instance sends to each upstream at once.",
    "jobsPath": "The path of the jobs API.",
    "taskRetention": "How long a job is kept after it has completed or failed.",
    "cache.mode": "`none`, `memory` (one process) or `redis` (shared by all instances).",
    "cache.ttl": "How long a cached answer is used.",
    "cache.maxEntries": "How many answers `memory` keeps. The least recently used answer goes first.",
    "cache.redisKeyPrefix": "The start of the keys in Redis.",
    "upstreams": "The backends; at least one.",
    "apiPath": "The path of toril's own API (`/queues` and so on). `/` puts it at the root, beside the upstreams' "
    "prefixes. Not set: `/__toril`, and off if an upstream takes every path. `off` removes the API.",
    "ownerOnly": "`true` shows a job only to callers who send the same `Authorization` as the submission. For other "
    "callers the job does not exist.",
    "callback.secrets": "Standard Webhooks secrets (`whsec_…`), one or two. With them, callers may ask for a callback "
    "when their job has ended.",
    "callback.timeout": "How long one callback may take.",
    "callback.attempts": "How many times a callback is tried, with pauses that double.",
    "callback.outbound": "The way to callbacks, by their hosts, with the keys of `workers.outbound`; see "
    "[Private authorities, OAuth and proxies](../how-to/outbound.md#callbacks).",
}

UPSTREAM_KEYS_MEAN = {
    "prefix": "Requests whose path equals the prefix, or continues it after a slash, go to this upstream. The prefix "
    "is cut off.",
    "url": "The address of the backend. A path in it is put before the rest of the path.",
    "timeout": "How long one attempt may take. `X-Proxq-Timeout: 90s` on a request overrides it; an empty, zero or "
    "negative value does not.",
    "maxRetries": "How many more attempts a request gets if it got no answer.",
    "retryDelay": "How long to wait before each retry. `0` waits n⁴ seconds after attempt n: 1 s, 16 s, 81 s …",
    "maxBodySize": "A larger request body is refused with `413`.",
    "directProxyThreshold": "A larger request body bypasses the queue. `0` means never.",
    "directProxyMode": "What to do with requests that bypass the queue: `proxy` passes them through, `redirect` sends "
    "the client to the upstream with a `307`.",
    "cacheKeyExcludeHeaders": "Request headers that are not part of the cache key. Headers that toril adds never are. "
    "Not set: `X-Request-ID`, `X-Forwarded-For`, `X-Real-IP`, `X-Forwarded-Proto`, `X-Forwarded-Host`.",
    "retryOn": "`[429, 503]` or one of them: these answers are retried too, as often as `maxRetries` allows and no "
    "sooner than `Retry-After` says (an hour at most). The last answer is the answer of the job.",
    "groupBy": "The [group](#groups) of a request: `header:x-tenant` (the value of any header), `client_ip` (what "
    "`X-Real-IP` says), or `owner` (the `Authorization`). Without the header a request has no group.",
    "groupConcurrency": "How many requests of each group the upstream gets at once, in the whole fleet.",
    "groupLimit": "`{max, duration}`: at most `max` requests of each group are begun per `duration` (such as `1s`, at "
    "most a day), retries included.",
    "tls": "`{ca_file, cert_file, key_file}`: the authority to trust, and the client certificate to show; see "
    "[Private authorities, OAuth and proxies](../how-to/outbound.md).",
    "proxy": "`{url, secret_file}`: the forward proxy that all requests go through.",
    "auth": "`{scheme: oauth2, token_url, client_id, secret_file, scopes}`: requests carry an access token in place of "
    "the caller's `Authorization`.",
    "pathFilter.mode": "`blacklist`: matching paths bypass the queue. `whitelist`: all other paths bypass the queue. "
    "Without patterns, every path is queued.",
    "pathFilter.patterns": "Regular expressions (Python's). Each is searched for anywhere in the decoded path, with "
    "its prefix and without its query.",
}
