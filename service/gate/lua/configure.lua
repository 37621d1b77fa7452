-- configure: switches the policy, then stands a part of one node's waiting children anew.
-- Called with the answer's cursor until it is 0, and then for each inner child it named.
local name, parent, cursor, inner = ARGV[1], gate.load_node(ARGV[2]), ARGV[3], {}
root.policy = name
policy, gated = name, name == 'dlpm'
local page = call('ZSCAN', pool .. 'waiting:' .. parent.id, cursor, 'COUNT', 64)
for at = 1, #page[2], 2 do
  local node = gate.load_node(parent == root and page[2][at] or parent.id .. '/' .. page[2][at])
  if not node.holds_jobs then inner[#inner + 1] = node.id end
  gate.stand(node, true)
end
gate.save()
return { now, page[1], inner }
