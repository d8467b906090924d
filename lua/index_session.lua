--[[
index_session: put a session into the index of its owner.

The index is a sorted set of session ids by the time they were added. It is not
cut here: the caller ends the sessions that are too many, and then removes them,
so that a repeated call after a lost reply names them again. Anything else that
stands at its key is replaced.

After a revoke the index holds a tombstone, for a minute (see revoke_index). A
new id that carries on a session which was there before, or is not there any
more, is not added. A missing id alone, without a tombstone, proves nothing: an
index may be evicted. A tombstone that lies further ahead than a minute (the clock
was set back, or somebody else wrote it) could refuse new ids for ever: it is
brought to the present, and so are the entries ahead, each on its side of it.

KEYS[1] index_key    sorted set of one owner's session ids
ARGV[1] session_id   string, the id to add
ARGV[2] old_id       string, the owner's session that it carries on; '' = none,
                     it is a login
ARGV[3] most         integer, number of sessions that the index may hold
ARGV[4] absolute_ms  integer, absolute timeout, ms, after which the index itself
                     may end, as no session in it lives any more; 0 = none

Returns: {status, ...}
  2 MOVED   {2, age_ms} old_id was revoked age_ms ago; nothing was added
  3 CREATED {3, {session_id, ...}, {session_id, ...}} the oldest ones that are
            too many, never the one added; and the oldest of those that were
            added over a minute ago
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
local SETTLED = 100 -- ids named at a time

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local score = now_us

local tombstone = redis.pcall('ZSCORE', index_key, '')
if type(tombstone) == 'table' and tombstone.err then
  if not string.find(tombstone.err, 'WRONGTYPE', 1, true) then return tombstone end
  redis.call('DEL', index_key)
  tombstone = false
end
tombstone = tonumber(tombstone or nil)
if tombstone and now_us - tombstone > SETTLED_US then
  redis.call('ZREM', index_key, '')
  tombstone = nil
end
if tombstone and tombstone - now_us > SETTLED_US then
  local ahead = redis.call('ZRANGEBYSCORE', index_key,
    '(' .. string.format('%.0f', now_us), '+inf', 'WITHSCORES')
  for i = 1, #ahead, 2 do
    local brought = tonumber(ahead[i + 1]) <= tombstone and now_us or now_us + 1
    redis.call('ZADD', index_key, string.format('%.0f', brought), ahead[i])
  end
  tombstone = now_us
end
if tombstone then
  if old_id ~= '' then
    local added = tonumber(redis.call('ZSCORE', index_key, old_id) or nil)
    if not added or added <= tombstone then
      return {2, math.max(0, math.floor((now_us - tombstone) / 1000))}
    end
  end
  score = math.max(score, tombstone + 1) -- also where the clock was set back
end
redis.call('ZADD', index_key, string.format('%.0f', score), session_id)
if absolute_ms > 0 then
  -- A minute more: on a cluster the session may be on a node whose clock is late.
  local life = absolute_ms + 60000
  if redis.call('PTTL', index_key) < life then redis.call('PEXPIRE', index_key, life) end
else
  redis.call('PERSIST', index_key)
end

local surplus = redis.call('ZCARD', index_key) - (tombstone and 1 or 0) - most
local too_many = {}
if surplus > 0 then
  -- Two more: the one added and the tombstone may be among the first.
  for _, name in ipairs(redis.call('ZRANGE', index_key, 0, surplus + 1)) do
    if name ~= session_id and name ~= '' and #too_many < surplus then
      too_many[#too_many + 1] = name
    end
  end
end
local settled = redis.call('ZRANGEBYSCORE', index_key, '-inf',
  '(' .. string.format('%.0f', now_us - SETTLED_US), 'LIMIT', 0, SETTLED)
return {3, too_many, settled}
