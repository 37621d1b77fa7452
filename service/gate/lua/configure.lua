-- configure: switches the policy, unless its name is "", and ranks a part of what waits by it. Called
-- again with "" until the answer is 0; two that switch at once help each other, and the last one wins.
if ARGV[1] ~= '' then gate.switch(ARGV[1]) end
gate.rank_on(tonumber(ARGV[2]))
return { now, root.unranked }
