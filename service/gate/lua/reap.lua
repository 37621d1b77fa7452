-- reap: the pool's heartbeat; ends expired leases, answers overdue jobs, forgets what is idle.
local heartbeat = tonumber(call('HGET', meta, 'heartbeat') or now)
local gap = now - heartbeat
local paused = (gap > settings.pause_ms or gap < 0) and gap or 0
local counts = { requeued = 0, lost = 0 }

-- While nobody could reap, nobody could renew: every lease gets the lost time back. A clock that
-- stepped back gives a negative gap, which moves the leases back with it.
local function shift_leases()
  local leases = call('ZRANGE', pool .. 'leases', 0, -1, 'WITHSCORES')
  for index = 1, #leases, 2 do
    call('ZADD', pool .. 'leases', tonumber(leases[index + 1]) + paused, leases[index])
  end
end

local function release_expired()
  for _, id in ipairs(call('ZRANGEBYSCORE', pool .. 'leases', '-inf', now, 'LIMIT', 0, 256)) do
    local fate = release(load_job(id))
    if fate then counts[fate] = counts[fate] + 1 end
  end
end

-- Only a tenant without debt is forgotten, or leaving and coming back would clear it.
local function forget_idle_tenants()
  local limit = now - settings.tenant_idle_ms
  for _, name in ipairs(call('ZRANGEBYSCORE', pool .. 'tenants', '-inf', limit, 'LIMIT', 0, 64)) do
    local tenant = load_tenant(name)
    if tenant.deficit > 0 and tenant.waiting_jobs == 0 and tenant.leased_jobs == 0 then
      call('DEL', pool .. 'tenant:' .. name)
      call('ZREM', pool .. 'tenants', name)
    else
      save_tenant(tenant) -- looked at again only after another idle span
    end
  end
end

local function forget_idle_workers()
  local limit = now - settings.worker_idle_ms
  for _, name in ipairs(call('ZRANGEBYSCORE', pool .. 'workers', '-inf', limit)) do
    counts.requeued = counts.requeued + forget_worker(name)
  end
end

call('HSET', meta, 'heartbeat', now)
if paused ~= 0 then shift_leases() else release_expired() end
local expired = expire_overdue()
forget_idle_tenants()
if paused == 0 then forget_idle_workers() end
return { now, counts.requeued, counts.lost, expired, paused }
