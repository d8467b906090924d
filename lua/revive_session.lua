--[[
revive_session: take back an end_session that was called with keep_fields.

For a transaction that failed after its session had voted, and for a call whose
reply did not come. Only the call that ended the session, known by its nonce, can
be taken back; should it come once more, or only now, it finds its nonce among the
save ids, and does nothing.

KEYS[1] session_key  hash that holds the marker and the kept fields
ARGV[1] nonce        string, the nonce of the end_session call

Returns: {status, ...}
  0 GONE   {0} that call left no marker here, or it has expired
  1 LOADED {1} the session lives
Writes: HSET created, HSET saves, HDEL moved, PEXPIRE, PERSIST; or nothing
]]
local session_key = KEYS[1]
local nonce = ARGV[1]
local LONGEST = 1000 -- of the save ids; of more, the oldest are forgotten

local created, moved, was, saves = unpack(
  redis.call('HMGET', session_key, 'created', 'moved', 'was', 'saves'))
local alive = created and not moved
saves = saves or ''
if alive and string.find(saves, nonce, 1, true) then return {1} end
if #saves > LONGEST then
  saves = string.match(string.sub(saves, 1, LONGEST), '^.*[\128-\255]') or ''
end
saves = nonce .. string.char(128 + redis.call('TIME')[1] % 128) .. saves
if alive then
  redis.call('HSET', session_key, 'saves', saves)
  return {1}
end
local ended_by = moved and string.match(moved, '^%d+ (%S+)')
local remaining, start = string.match(was or '', '^(-?%d+) (.*)$')
if created or ended_by ~= nonce or not start then return {0} end

-- The TTL first: a script that has written is not refused memory for the rest.
if tonumber(remaining) < 0 then redis.call('PERSIST', session_key)
else redis.call('PEXPIRE', session_key, remaining)
end
redis.call('HSET', session_key, 'created', start, 'saves', saves)
redis.call('HDEL', session_key, 'moved', 'was')
return {1}
