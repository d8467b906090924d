--[[
describe_session: tell what is known of a session without touching it.

KEYS[1] session_key  hash that holds the session
ARGV[1] timeout_ms   integer, default idle timeout, ms; 0 = never
ARGV[2] absolute_ms  integer, absolute timeout, ms; 0 = none
ARGV[3...]           fields to tell of, as the owner and the label

Returns: {status, ...}
  0 GONE   {0} no session is stored here, or it has reached its end
  1 LOADED {1, remaining_ms, idle_ms, now_ms, {token, value, ...}}:
           remaining_ms -1 = never ends; idle_ms is the idle timeout that ends
           it then, 0 = something else ends it sooner, or it never ends; a
           field that is absent is an empty string
  2 MOVED  {2, age_ms} the session ended age_ms ago
Writes: nothing
]]
local session_key = KEYS[1]
local timeout_ms = tonumber(ARGV[1])
local absolute_ms = tonumber(ARGV[2])
local first_told = 3

local token, timeout, deadline, expires, first, moved = unpack(redis.call('HMGET', session_key,
  '@', 'timeout', 'deadline', 'expires', 'first', 'moved'))
-- @include clock
-- @include gone
-- @include moments
-- @include time_left
if not start_ms or remaining == 0 then return {0} end
local told = {token}
for i = first_told, #ARGV do
  told[#told + 1] = redis.call('HGET', session_key, ARGV[i]) or ''
end
return {1, remaining, idle, now_ms, told}
