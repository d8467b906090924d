--[[
revoke_index: draw the line of a revoke in the index of an owner.

The index is one key, so what is in it is decided in one step. The tombstone,
an entry with an empty id, is put above all that are there. A new id that would
carry on one of them is refused from now on (see index_session); one that was
added before is among those returned. A login gets a place above the tombstone.
Nothing is removed, so a repeated call returns what the first one did, or more.
Only something else that stands at the key is: nobody could log out for good.

KEYS[1] index_key  sorted set of one owner's session ids
ARGV[1] spared_id  string, id that is put above the tombstone if the index holds
                   it, unless an earlier revoke meant it; '' = none

Returns: {status, ...}
  5 SAVED {5, {session_id, ...}, replaced} every id in the index, in its order;
          replaced 1 = something else stood there, 0 = not
Writes: ZADD, PEXPIRE, DEL
]]
local index_key = KEYS[1]
local spared_id = ARGV[1]
local KEPT_MS = 60000 -- the tombstone counts as long as the marker of a session

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local replaced = 0
local tombstone = redis.pcall('ZSCORE', index_key, '')
if type(tombstone) == 'table' and tombstone.err then
  if not string.find(tombstone.err, 'WRONGTYPE', 1, true) then return tombstone end
  replaced = redis.call('DEL', index_key)
  tombstone = false
end
tombstone = tonumber(tombstone or nil)
local spared = spared_id ~= '' and tonumber(redis.call('ZSCORE', index_key, spared_id) or nil)
if spared and tombstone and now_us - tombstone <= KEPT_MS * 1000 and spared <= tombstone then
  spared = false
end

local score = string.format('%.0f', now_us)
-- Where the clock was set back, entries may be of the future.
for _, session_id in ipairs(redis.call('ZRANGEBYSCORE', index_key, '(' .. score, '+inf')) do
  redis.call('ZADD', index_key, score, session_id)
end
redis.call('ZADD', index_key, score, '')
if spared then redis.call('ZADD', index_key, string.format('%.0f', now_us + 1), spared_id) end

local members = {}
for _, session_id in ipairs(redis.call('ZRANGE', index_key, 0, -1)) do
  if session_id ~= '' then members[#members + 1] = session_id end
end
local remaining = redis.call('PTTL', index_key)
if #members == 0 or (remaining >= 0 and remaining < KEPT_MS) then
  redis.call('PEXPIRE', index_key, KEPT_MS)
end
return {5, members, replaced}
