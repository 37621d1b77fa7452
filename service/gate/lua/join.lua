-- join: a fresh worker with an empty cache; what an earlier one of its name held goes back. It brings
-- its settings, unless others live that serve by different ones: then it is told which.
local differing = {}
for field, value in pairs(given) do
  if settings[field] ~= value and field ~= 'digest' and field ~= 'policy' then
    differing[#differing + 1] = field .. ' = ' .. settings[field]
  end
end
for name, other in pairs(fleet) do
  local lives = name ~= ARGV[1] and other.alive > now - settings.worker_idle_ms
  if lives and #differing > 0 then return { now, 0, table.concat(differing, ', ') } end
end
if #differing > 0 then gate.agree() end
local requeued = gate.forget_worker(ARGV[1])
gate.of_fleet(ARGV[1]).alive = now
fleet[ARGV[1]].instance = ARGV[2] -- an earlier worker of this name is told by its next claim
gate.save()
return { now, requeued, '' }
