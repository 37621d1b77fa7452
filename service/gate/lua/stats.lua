-- stats: a snapshot of the pool, with the nodes that are named.
local rows, seen = {}, {}
for _, id in ipairs(ARGV) do
  local node = gate.load_node(id)
  if node.weight > 0 then
    rows[#rows + 1] = { id, node.deficit, node.weight, node.jobs, node.tokens, node.leased, node.service }
  end
end
for _, name in ipairs(gate.fleet_with('alive')) do
  local alive = fleet[name].alive
  local unheard = alive <= root.resumed and settings.worker_idle_ms or 0 -- since Redis came back
  seen[#seen + 1] = { name, math.max(now - alive, unheard) }
end
nodes = { [''] = root } -- the others were only read
return { now, policy, root.jobs, root.tokens, root.leased, root.round, root.service, root.platform,
  root.uncharged, root.drain_rate, rows, seen }
