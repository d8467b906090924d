--[[
load_and_touch: read one session and refresh its idle timeout.

The touch is left out only while trigger_ms < remaining <= life, and where it
would set the same moment again: the call is then a pure read, of which neither
replicas nor the append-only file see anything.

KEYS[1] session_key  hash that holds the session
ARGV[1] digest       16 bytes, BLAKE2b of the verifier that the cookie holds
ARGV[2] timeout_ms   integer, default idle timeout, ms; 0 = never
ARGV[3] beside       '1' = the fields are read by an HGETALL that travels before
                     this call: a large hash costs a script many times what it
                     costs Redis. What came in between is for the caller to see
ARGV[4] trigger_ms   integer, touch at or below this remaining life, ms, of a
                     session with the default idle timeout; where one has its
                     own, at the same share of that. '' or left out = always touch
ARGV[5] absolute_ms  integer, absolute timeout, ms; 0 = none
ARGV[6] mode         '1' = the key has a TTL, '0' = field `expires` (LRU mode); with a
                     '+' behind it, a session that lives is always CLOCKED. It is left
                     out, with absolute_ms, where it is '1', absolute_ms is 0 and
                     timeout_ms is not: each argument takes Redis time

Returns: {status, ...}
  0 GONE   {0} no session is stored here; {0, 1} it had reached its end;
           {0, 2} something else is stored here
  1 LOADED {1, remaining_ms, {field, value, ...}}; remaining_ms -1 = never ends;
           beside: {1, remaining_ms}, or 1 alone where that is timeout_ms: a table
           takes Redis time
  2 MOVED  {2, age_ms} the session ended age_ms ago; {2, age_ms, 1} its token was
           replaced age_ms ago; 2: and it is an owner's
  12 CLOCKED {12, remaining_ms, now_ms, idle_ms, {field, value, ...}} LOADED, for a
           session that holds what is told from the time, as a mark in its token
           says. idle_ms is how long ago it was touched before,
           -1 = unknown; beside: without fields
Writes: PEXPIRE, PERSIST, HDEL first, HDEL expires, HSET expires, HSET @, DEL of
an ended session; or nothing
]]
local session_key = KEYS[1]
local digest = ARGV[1]
local timeout_ms = ARGV[2]
local beside = ARGV[3] == '1'
local trigger_ms = ARGV[4]
local absolute_ms = ARGV[5]
local mode = ARGV[6]

local fields, token, timeout, expires, deadline, first, moved
if beside then token = redis.call('HGET', session_key, '@')
else
  fields = redis.call('HGETALL', session_key)
  -- @include kept_about_it
end

if token and not mode and #token % 2 == 0 and string.sub(token, 1, 16) == digest then
  -- The common case: one write at most, nothing to compute.
  if trigger_ms then
    local ttl = redis.call('PTTL', session_key)
    if tonumber(trigger_ms) < ttl and ttl <= tonumber(timeout_ms) then return {1, ttl, fields} end
  end
  local reply = redis.pcall('PEXPIRE', session_key, timeout_ms)
  if reply ~= 1 and type(reply) == 'table' and string.find(reply.err, 'READONLY', 1, true) then
    return reply
  end
  return fields and {1, tonumber(timeout_ms), fields} or 1
end

if beside then
  timeout, expires, deadline, first, moved = unpack(redis.call('HMGET', session_key,
    'timeout', 'expires', 'deadline', 'first', 'moved'))
end
timeout_ms, trigger_ms = tonumber(timeout_ms), tonumber(trigger_ms)
mode, absolute_ms = mode or '1', tonumber(absolute_ms) or 0
local use_ttl = string.sub(mode, 1, 1) == '1'
local mark = token and #token % 2 == 1 and string.sub(token, -1)
-- @include clock
if not token and not moved and redis.call('EXISTS', session_key) == 1 then return {0, 2} end
-- @include gone
-- @include moments
if not start_ms then return {0, 2} end
-- @include token

-- A write of the touch may be refused (MISCONF, NOREPLICAS, OOM): the read
-- goes on. READONLY is passed up, so that the client finds the new primary.
local refused
local function touch(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' then return true end
  if string.find(reply.err, 'READONLY', 1, true) then refused = reply end
end

local idle = tonumber(timeout) or timeout_ms
if trigger_ms then trigger_ms = timeout_ms > 0 and trigger_ms / timeout_ms * idle or idle end
local life = idle > 0 and idle or math.huge
if absolute_ms > 0 then life = math.min(life, start_ms + absolute_ms - now_ms) end
if deadline then life = math.min(life, (tonumber(deadline) or 0) - now_ms) end
if life <= 0 or (expires and (tonumber(expires) or 0) <= now_ms) then
  touch('DEL', session_key)
  if refused then return refused end
  return {0, 1}
end
if life < math.huge then life = math.min(life, 3200000000000) end -- a century: PEXPIRE's range
if first then touch('HDEL', session_key, 'first') end

local pttl = redis.call('PTTL', session_key) -- -1 = no TTL
local remaining = expires and tonumber(expires) - now_ms or pttl >= 0 and pttl or math.huge
-- Before this touch, where no fixed end cuts the life short.
local idle_ms = -1
if life == idle and not first and remaining <= idle then idle_ms = idle - remaining end
-- A life cut short by a fixed end always ends at the same moment; clock reads
-- within one call may lie a millisecond apart.
local same_moment = life ~= idle and (remaining == life or math.abs(remaining - life) <= 2)
local skip = same_moment
  or (trigger_ms and not first and idle > 0 and trigger_ms < remaining and remaining <= life)
if not skip or use_ttl and expires or not use_ttl and pttl ~= -1 then
  if life == math.huge then
    if pttl >= 0 then touch('PERSIST', session_key) end
    if expires then touch('HDEL', session_key, 'expires') end
  elseif use_ttl then
    touch('PEXPIRE', session_key, string.format('%.0f', life))
    if expires then touch('HDEL', session_key, 'expires') end
  else
    local set = touch('HSET', session_key, 'expires', string.format('%.0f', now_ms + life))
    if not mark then touch('HSET', session_key, '@', token .. '-') end
    -- Where memory is short, only this is not refused, and nothing would end the session.
    if pttl >= 0 and set then touch('PERSIST', session_key) end
  end
  remaining = life
end
if mark == '-' and use_ttl and not (timeout or deadline) then
  touch('HSET', session_key, '@', string.sub(token, 1, -2)) -- it is like any other by now
end
if refused then return refused end
if remaining == math.huge then remaining = -1 end
if mark and mark ~= '-' or #mode > 1 then return {12, remaining, now_ms, idle_ms, fields} end
return {1, remaining, fields}
