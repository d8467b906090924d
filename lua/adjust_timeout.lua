--[[
adjust_timeout: change only the lifetime of a session that still lives.

With nothing to change it is the cheapest way to refresh a session and to learn
whether it lives.

KEYS[1] session_key   hash that holds the session
ARGV[1] digest        16 bytes, BLAKE2b of the verifier that the cookie holds
ARGV[2] timeout_ms    integer, default idle timeout, ms; 0 = never
ARGV[3] absolute_ms   integer, absolute timeout, ms; 0 = none
ARGV[4] use_ttl       '1' = the key has a TTL, '0' = field `expires` (LRU mode)
ARGV[5] save_id       6 bytes, unique to this call, by which it is recognised when it
                      is repeated after a lost reply
ARGV[6] remember_s    integer, how long it is, seconds, below 246
ARGV[7] new_timeout   integer, the session's own idle timeout from now on, ms,
                      0 = never, -1 = the default; '' = unchanged
ARGV[8] new_deadline  integer, ms since the epoch; 0 = none; '' = unchanged
ARGV[9] message       published if it ends now: who ended; '' = nothing is

Returns: {status, ...}
  0 GONE     {0} no session is stored here; {0, 1} it has reached its end
  2 MOVED    {2, age_ms} the session ended age_ms ago; {2, age_ms, 1} its token was
             replaced age_ms ago; 2: and it is an owner's
  8 ADJUSTED {8, remaining_ms}; remaining_ms -1 = never ends, 0 = it ends now
Writes: HSET, HSET saves, HDEL, PEXPIRE, PERSIST; DEL of an ended session; SPUBLISH or
PUBLISH; or nothing
]]
local session_key = KEYS[1]
local digest = ARGV[1]
local timeout_ms = tonumber(ARGV[2])
local absolute_ms = tonumber(ARGV[3])
local use_ttl = ARGV[4] == '1'
local save_id = ARGV[5]
local remember_s = tonumber(ARGV[6])
local new_timeout = tonumber(ARGV[7])
local new_deadline = tonumber(ARGV[8])
local message = ARGV[9]

local token, timeout, deadline, expires, first, saves, moved = unpack(
  redis.call('HMGET', session_key,
    '@', 'timeout', 'deadline', 'expires', 'first', 'saves', 'moved'))
-- @include clock
local answer = {8, 0}
-- @include applied_before
-- @include gone
-- @include moments
-- @include remembered
if repeated then new_timeout, new_deadline = nil, nil
else
  -- @include token
end
-- @include life
if new_timeout or new_deadline then
  -- @include remember
  redis.call('HSET', session_key, 'saves', saves)
end
-- @include live_on
if remaining == 0 then
  -- @include publish
end
return {8, remaining}
