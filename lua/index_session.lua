--[[
index_session: put a session into the index of its owner.

The index is a sorted set of session ids in the order in which they were added:
the score is the time, and above all that stand there already, also where the
clock was set back. An id keeps its place, as a call may be repeated, and others
may have decided by the order meanwhile. It is not cut here: the caller ends the
sessions that are too many, and then removes them, so that a repeated call after
a lost reply tells of them again. Anything else that stands at its key is replaced.

After a revoke the index holds a tombstone, for a minute (see revoke_index). A
new id that carries on a session which was there before, or is not there any
more, is not added. A missing id alone, without a tombstone, proves nothing: an
index may be evicted. Entries that lie further ahead than a minute (the clock was
set back, or somebody else wrote them) would be young, and a tombstone would refuse
new ids, for ever: all that are ahead are brought to the present, in their order.

KEYS[1] index_key    sorted set of one owner's session ids
ARGV[1] session_id   string, the id to add
ARGV[2] old_id       string, the owner's session that it carries on; '' = none,
                     it is a login
ARGV[3] most         integer, number of sessions that the index may hold
ARGV[4] absolute_ms  integer, absolute timeout, ms, after which the index itself
                     may end, as no session in it lives any more; 0 = none

Returns: {status, ...}
  2 MOVED   {2, age_ms} old_id was revoked age_ms ago; nothing was added
  3 CREATED {3, surplus, {session_id, ...}} how many are too many, 0 = none; and
            those that were added over a minute ago, oldest first: all where some
            are too many, else some of them
Writes: ZADD, ZREM, DEL, PEXPIRE, PERSIST; or nothing
]]
local index_key = KEYS[1]
local session_id = ARGV[1]
local old_id = ARGV[2]
local most = tonumber(ARGV[3])
local absolute_ms = tonumber(ARGV[4])
-- A younger entry may belong to a login that is under way, a younger tombstone
-- decides about new ids that are.
local SETTLED_US = 60000000
local SETTLED = 100 -- ids named at a time where none is too many

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]

local last = redis.pcall('ZRANGE', index_key, -1, -1, 'WITHSCORES')
if last.err then
  if not string.find(last.err, 'WRONGTYPE', 1, true) then return last end
  redis.call('DEL', index_key)
  last = {}
end
local top = tonumber(last[2] or 0)
local tombstone = tonumber(redis.call('ZSCORE', index_key, '') or nil)
if tombstone and now_us - tombstone > SETTLED_US then
  redis.call('ZREM', index_key, '')
  tombstone = nil
end
if top - now_us > SETTLED_US then
  local ahead = redis.call('ZRANGEBYSCORE', index_key,
    '(' .. string.format('%.0f', now_us), '+inf', 'WITHSCORES')
  top = now_us
  for i = 1, #ahead, 2 do
    if ahead[i + 1] ~= ahead[i - 1] then top = top + 1 end -- equal scores stay equal
    if ahead[i] == '' then tombstone = top end
    redis.call('ZADD', index_key, string.format('%.0f', top), ahead[i])
  end
end
if tombstone and old_id ~= '' then
  local added = tonumber(redis.call('ZSCORE', index_key, old_id) or nil)
  if not added or added <= tombstone then
    return {2, math.max(0, math.floor((now_us - tombstone) / 1000))}
  end
end
local score = math.max(now_us, top + 1)
redis.call('ZADD', index_key, 'NX', string.format('%.0f', score), session_id)
if absolute_ms > 0 then
  -- A minute more: on a cluster the session may be on a node whose clock is late.
  local life = absolute_ms + 60000
  if redis.call('PTTL', index_key) < life then redis.call('PEXPIRE', index_key, life) end
else
  redis.call('PERSIST', index_key)
end

local surplus = redis.call('ZCARD', index_key) - (tombstone and 1 or 0) - most
local settled = redis.call('ZRANGEBYSCORE', index_key, '-inf',
  '(' .. string.format('%.0f', now_us - SETTLED_US), 'LIMIT', 0, surplus > 0 and -1 or SETTLED)
return {3, math.max(0, surplus), settled}
