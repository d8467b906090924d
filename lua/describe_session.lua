--[[
describe_session: tell what is known of a session without touching it.

KEYS[1] session_key  hash that holds the session
ARGV[1] timeout_ms   integer, default idle timeout, ms; 0 = never
ARGV[2] absolute_ms  integer, absolute timeout, ms; 0 = none

Returns: {status, ...}
  0 GONE   {0} no session is stored here, or it has reached its end
  1 LOADED {1, remaining_ms, idle_ms, now_ms, {created, token, owner, label}}:
           remaining_ms -1 = never ends; idle_ms is the idle timeout that ends
           it then, 0 = something else ends it sooner, or it never ends; a
           field that is absent is an empty string
  2 MOVED  {2, age_ms} the session ended age_ms ago
Writes: nothing
]]
local session_key = KEYS[1]
local timeout_ms = tonumber(ARGV[1])
local absolute_ms = tonumber(ARGV[2])

local created, token, timeout, deadline, expires, first, moved, owner, label = unpack(
  redis.call('HMGET', session_key,
    'created', 'token', 'timeout', 'deadline', 'expires', 'first', 'moved', 'owner', 'label'))
-- @include clock
-- @include gone
local start = tonumber(string.match(created, '^%d+'))
local remaining = redis.call('PTTL', session_key) -- -1 = no TTL
if expires then remaining = math.max(0, (tonumber(expires) or 0) - now_ms) end
local fixed = math.huge -- life up to the end that no activity moves
if absolute_ms > 0 then fixed = (start or 0) + absolute_ms - now_ms end
if deadline then fixed = math.min(fixed, (tonumber(deadline) or 0) - now_ms) end
if not start or remaining == 0 or fixed <= 0 then return {0} end

local idle = tonumber(timeout) or timeout_ms
-- Clock reads within one call may lie a millisecond apart.
if first or remaining < 0 or remaining >= fixed - 2 then idle = 0 end
return {1, remaining, idle, now_ms, {created, token or '', owner or '', label or ''}}
