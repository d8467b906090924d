--[[
index_session: put a session into the index of its owner.

The index is a sorted set of session ids by the time they were added. It is not
cut here: the caller ends the sessions that are too many, and then removes them,
so that a repeated call after a lost reply names them again. Anything else that
stands at its key is replaced.

KEYS[1] index_key    sorted set of one owner's session ids
ARGV[1] session_id   string, the id to add
ARGV[2] most         integer, number of sessions that the index may hold
ARGV[3] absolute_ms  integer, absolute timeout, ms, after which the index itself
                     may end, as no session in it lives any more; 0 = none

Returns: {status, ...}
  3 CREATED {3, {session_id, ...}, {session_id, ...}} the oldest ones that are
            too many, never the one added; and the others that were added over
            a minute ago
Writes: ZADD, DEL, PEXPIRE, PERSIST
]]
local index_key = KEYS[1]
local session_id = ARGV[1]
local most = tonumber(ARGV[2])
local absolute_ms = tonumber(ARGV[3])
local SETTLED_US = 60000000 -- a younger entry may belong to a login that is under way

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local score = string.format('%.0f', now_us)
local added = redis.pcall('ZADD', index_key, score, session_id)
if type(added) == 'table' and added.err then
  if not string.find(added.err, 'WRONGTYPE', 1, true) then return added end
  redis.call('DEL', index_key)
  redis.call('ZADD', index_key, score, session_id)
end
if absolute_ms > 0 then
  -- A minute more: on a cluster the session may be on a node whose clock is late.
  local life = absolute_ms + 60000
  if redis.call('PTTL', index_key) < life then redis.call('PEXPIRE', index_key, life) end
else
  redis.call('PERSIST', index_key)
end

local surplus = redis.call('ZCARD', index_key) - most
local too_many = {}
if surplus > 0 then
  for _, name in ipairs(redis.call('ZRANGE', index_key, 0, surplus)) do
    if name ~= session_id and #too_many < surplus then too_many[#too_many + 1] = name end
  end
end
local settled = redis.call('ZRANGEBYSCORE', index_key, '-inf',
  '(' .. string.format('%.0f', now_us - SETTLED_US), 'LIMIT', #too_many, 1000)
return {3, too_many, settled}
