-- Posts signed notifications, each once, and prints what came of them as one line of JSON.
-- Arguments: a file of "signature<TAB>body" lines, the number of threads, and after how many
-- answers to stop, or 0.

local threads = {}

function setup(thread)
  thread:set("index", #threads)
  table.insert(threads, thread)
end

function init(args)
  local total = tonumber(args[2])
  requests, position, refused, answered, line = {}, 0, 0, 0, 0
  most = tonumber(args[3])
  for text in io.lines(args[1]) do
    if line % total == index then
      local signature, body = text:match("^([^\t]+)\t(.+)$")
      table.insert(requests, wrk.format("POST", "/webhook", {
        ["Content-Type"] = "application/json; charset=utf-8",
        ["Stripe-Signature"] = signature,
      }, body))
    end
    line = line + 1
  end
end

function request()
  position = position + 1
  return requests[(position - 1) % #requests + 1]
end

function response(status)
  if status ~= 200 then refused = refused + 1 end
  answered = answered + 1
  if answered == most then wrk.thread:stop() end
end

function done(summary, latency)
  local refused, sent, most = 0, 0, 0
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("refused")
    most = math.max(most, thread:get("position") / #thread:get("requests"))
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, '
      .. '"broken": %d, "used": %f}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, refused,
    errors.connect + errors.read + errors.write + errors.timeout, most))
end
