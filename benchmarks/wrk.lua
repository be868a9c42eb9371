-- Tells wrk what to send, and prints its figures as one line of JSON.
-- METHOD, TOKEN and BODY_FILE (may be empty) come from the environment, so that no token shows in a process list.

function init(args)
  wrk.method = os.getenv("METHOD")
  wrk.headers["Authorization"] = "Bearer " .. os.getenv("TOKEN")
  local path = os.getenv("BODY_FILE")
  if path ~= "" then
    local file = assert(io.open(path, "rb"))
    wrk.body = file:read("*a")
    file:close()
    wrk.headers["Content-Type"] = "application/json"
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"bad_status":%d,"broken":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
