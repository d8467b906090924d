--[[
peek_session: read one session as load_and_touch does, and leave its life as it is.

KEYS[1] session_key  hash that holds the session
ARGV[1] digest       16 bytes, BLAKE2b of the verifier that the cookie holds
ARGV[2] timeout_ms   integer, default idle timeout, ms; 0 = never
ARGV[3] absolute_ms  integer, absolute timeout, ms; 0 = none

Returns: {status, ...}
  0 GONE   {0} no session is stored here; {0, 1} it has reached its end;
           {0, 2} something else is stored here
  2 MOVED  {2, age_ms} the session ended age_ms ago; {2, age_ms, 1} its token was
           replaced age_ms ago; 2: and it is an owner's
  12 CLOCKED {12, remaining_ms, now_ms, idle_ms, {field, value, ...}} the session
           lives; remaining_ms -1 = never ends; idle_ms is how long ago it was
           touched, -1 = unknown
Writes: nothing
]]
local session_key = KEYS[1]
local digest = ARGV[1]
local timeout_ms = tonumber(ARGV[2])
local absolute_ms = tonumber(ARGV[3])

local fields = redis.call('HGETALL', session_key)
local token, timeout, expires, deadline, first, moved
-- @include kept_about_it
-- @include clock
if not token and not moved and fields[1] then return {0, 2} end
-- @include gone
-- @include moments
-- @include time_left
if not start_ms then return {0, 2} end
-- @include token
if remaining == 0 then return {0, 1} end
return {12, remaining, now_ms, idle >= remaining and idle > 0 and idle - remaining or -1, fields}
