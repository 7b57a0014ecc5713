-- For wrk: POSTs a body of as many bytes as the first argument says, if any,
-- and ends with a line for wrk.rs.

function init(args)
   local size = tonumber(args[1] or "0")
   wrk.headers["Host"] = "localhost"
   if size > 0 then
      wrk.method = "POST"
      wrk.body = string.rep("x", size)
      wrk.headers["Content-Type"] = "application/octet-stream"
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      "report requests=%d micros=%d bytes=%d connect=%d read=%d write=%d status=%d timeout=%d p50=%d p99=%d\n",
      summary.requests, summary.duration, summary.bytes,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end
