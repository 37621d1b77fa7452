-- join: a fresh worker with an empty cache; what an earlier one of its name held goes back. It brings
-- its settings, unless others live that serve by different ones: then it is told which.
for name, other in pairs(fleet) do
  local lives = name ~= ARGV[1] and other.alive > now - settings.worker_idle_ms
  if lives and settings ~= given then return { now, 0, cjson.encode(settings) } end
end
if settings ~= given then gate.agree() end
gate.forget_worker(ARGV[1])
local me = gate.of_fleet(ARGV[1])
me.alive, me.instance = now, ARGV[2] -- an earlier worker of this name is told by its next claim
return { now, fates.requeued, '' }
