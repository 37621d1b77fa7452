-- stats: a snapshot of the pool as JSON, with the tenants seen last.
local limit = tonumber(ARGV[2])
local queued = call('HMGET', meta, 'queued_jobs', 'queued_tokens')
local rows, workers = {}, {}
for _, name in ipairs(call('ZREVRANGE', pool .. 'tenants', 0, limit - 1)) do
  local tenant = load_tenant(name)
  rows[#rows + 1] = {
    name, tenant.deficit, tenant.weight, tenant.waiting_jobs, tenant.waiting_tokens,
    tenant.leased_jobs, tenant.service,
  }
end
local seen = call('ZRANGE', pool .. 'workers', 0, -1, 'WITHSCORES')
for index = 1, #seen, 2 do
  workers[#workers + 1] = { seen[index], now - tonumber(seen[index + 1]) }
end
local leased = call('ZCARD', pool .. 'leases')
return { now, round, tonumber(queued[1] or 0), tonumber(queued[2] or 0), leased, rows, workers }
