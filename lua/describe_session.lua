--[[
describe_session: tell what is known of a session without touching it.

KEYS[1] session_key  hash that holds the session
ARGV[1] timeout_ms   integer, default idle timeout, ms; 0 = never
ARGV[2] absolute_ms  integer, absolute timeout, ms; 0 = none

Returns: {status, ...}
  0 GONE   {0} no session is stored here, or it has reached its end
  1 LOADED {1, remaining_ms, idle_ms, now_ms, {created, owner, label}}:
           remaining_ms -1 = never ends; idle_ms is the idle timeout that
           applies, 0 = never; a field that is absent is an empty string
  2 MOVED  {2, age_ms} the session ended age_ms ago
Writes: nothing
]]
local session_key = KEYS[1]
local timeout_ms = tonumber(ARGV[1])
local absolute_ms = tonumber(ARGV[2])

local created, timeout, deadline, expires, moved, owner, label = unpack(redis.call('HMGET',
  session_key, 'created', 'timeout', 'deadline', 'expires', 'moved', 'owner', 'label'))
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if not created then
  if not moved then return {0} end
  return {2, now_ms - (tonumber(string.match(moved, '^%d+')) or 0)}
end
local remaining = redis.call('PTTL', session_key)
if expires then remaining = (tonumber(expires) or 0) - now_ms end
local start = tonumber(string.match(created, '^%d+')) or 0
if remaining == 0 or remaining < -1
  or (absolute_ms > 0 and start + absolute_ms <= now_ms)
  or (deadline and (tonumber(deadline) or 0) <= now_ms) then
  return {0}
end
return {1, remaining, tonumber(timeout) or timeout_ms, now_ms,
  {created, owner or '', label or ''}}
