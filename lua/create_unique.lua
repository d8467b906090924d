--[[
create_unique: create a session with its data, if its locator is free.

A locator is free only if nothing at all is stored under it: no session, no marker
of an ended one, no foreign value. By the digest a repeated call (the client lost
the first reply) succeeds as the first one did; or learns that the session has
ended meanwhile (see end_session), so that nothing brings it back.

KEYS[1] session_key  hash to create
ARGV[1] digest       16 bytes, BLAKE2b of a verifier that is unique to this call
ARGV[2] start_ms     integer, ms since the epoch: start of the session's life;
                     '' = now
ARGV[3] timeout_ms   integer, idle timeout, ms; 0 = never
ARGV[4] adjusted     '1' = timeout_ms is the session's own, '' = the default
ARGV[5] deadline_ms  integer, ms since the epoch: end whatever the activity;
                     '' = none
ARGV[6] absolute_ms  integer, absolute timeout, ms; 0 = none
ARGV[7] first_ms     integer, life until the first load, ms; 0 = as any other
ARGV[8] use_ttl      '1' = the key gets a TTL, '0' = field `expires` (LRU mode)
ARGV[9] mark         '+' = it holds what is told from the time; '' = it does not
ARGV[10...]          field, value, field, value, ...; see set_fields

Returns: {status, ...}
  0 GONE    {0} the session would already be at its end; nothing is created
  2 MOVED   {2, age_ms} this call had created the session, which has ended
            age_ms ago
  3 CREATED {3, remaining_ms, start_ms, token_ms}: when its token was put in place;
            remaining_ms -1 = never ends; with a fifth element, 1: it was there already
  4 TAKEN   {4} something else is stored under this locator
Writes: HSET, PEXPIRE; or nothing
]]
local session_key = KEYS[1]
local digest = ARGV[1]
local start_ms = tonumber(ARGV[2])
local timeout_ms = tonumber(ARGV[3])
local adjusted = ARGV[4] == '1'
local deadline_ms = tonumber(ARGV[5])
local absolute_ms = tonumber(ARGV[6])
local first_ms = tonumber(ARGV[7])
local use_ttl = ARGV[8] == '1'
local mark = ARGV[9]
local MAX_MS = 3200000000000 -- about a hundred years, well within PEXPIRE's range
local first_set = 10

-- @include clock
if redis.call('EXISTS', session_key) == 1 then
  local found = redis.pcall('HMGET', session_key, '@', 'moved', 'expires')
  if found.err then return {4} end
  local token, moved, expires = unpack(found)
  if token and string.sub(token, 1, 16) == digest then
    -- @include moments
    local remaining = redis.call('PTTL', session_key)
    if expires then remaining = (tonumber(expires) or now_ms) - now_ms end
    return {3, remaining, start_ms or 0, placed_ms or now_ms, 1}
  elseif not token and moved and string.sub(moved, 7, 22) == digest then
    return {2, now_ms - (tonumber(string.sub(moved, 23)) or 0)}
  end
  return {4}
end

start_ms = start_ms or now_ms
local life = math.huge
if timeout_ms > 0 then life = timeout_ms end
if first_ms > 0 then life = math.min(life, first_ms) end
if absolute_ms > 0 then life = math.min(life, start_ms + absolute_ms - now_ms) end
if deadline_ms then life = math.min(life, deadline_ms - now_ms) end
if life <= 0 then return {0} end
if life < math.huge then life = math.min(life, MAX_MS) end

if mark == '' and (adjusted or deadline_ms or first_ms > 0 or not use_ttl) then mark = '-' end
local token
-- @include place_token
local meta = {'@', token}
if adjusted then
  meta[#meta + 1] = 'timeout'
  meta[#meta + 1] = string.format('%.0f', timeout_ms)
end
if deadline_ms then
  meta[#meta + 1] = 'deadline'
  meta[#meta + 1] = string.format('%.0f', deadline_ms)
end
if first_ms > 0 then
  meta[#meta + 1] = 'first'
  meta[#meta + 1] = string.format('%.0f', first_ms)
end
if not use_ttl and life < math.huge then
  meta[#meta + 1] = 'expires'
  meta[#meta + 1] = string.format('%.0f', now_ms + life)
end
redis.call('HSET', session_key, unpack(meta))
-- @include set_fields
if use_ttl and life < math.huge then
  redis.call('PEXPIRE', session_key, string.format('%.0f', life))
end
return {3, life < math.huge and life or -1, start_ms, now_ms}
