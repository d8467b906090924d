--[[
forget_sessions: take sessions that have ended out of the index of their owner.

If that leaves nothing but the tombstone of a revoke (see revoke_index), the
index ends with it.

KEYS[1] index_key  sorted set of one owner's session ids
ARGV[1...]         the ids to remove

Returns: {status, ...}
  5 SAVED {5, removed} how many of them were there
Writes: ZREM, PEXPIRE; or nothing
]]
local index_key = KEYS[1]
local FIRST_ID = 1
local KEPT_MS = 60000 -- the tombstone counts as long as the marker of a session
local BATCH = 4000 -- arguments of one ZREM; unpack takes about 8,000

local removed = 0
for i = FIRST_ID, #ARGV, BATCH do
  removed = removed + redis.call('ZREM', index_key, unpack(ARGV, i, math.min(i + BATCH - 1, #ARGV)))
end
if redis.call('ZCARD', index_key) == 1 and redis.call('ZSCORE', index_key, '') then
  local remaining = redis.call('PTTL', index_key)
  if remaining < 0 or remaining > KEPT_MS then redis.call('PEXPIRE', index_key, KEPT_MS) end
end
return {5, removed}
