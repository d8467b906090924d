--[[
create_unique: create a session with its data, if its id is free.

An id is free only if nothing at all is stored under it: no session, no marker
of an ended one, no foreign value. The nonce makes a repeated call (the client
lost the first reply) succeed as the first one did; or tells it that the session
has ended meanwhile (see end_session), so that nothing brings it back.

KEYS[1] session_key  hash to create
ARGV[1] nonce        string without spaces, unique to this call
ARGV[2] created_ms   integer, ms since the epoch: start of the session's life;
                     '' = now
ARGV[3] timeout_ms   integer, idle timeout, ms; 0 = never
ARGV[4] adjusted     '1' = timeout_ms is the session's own, '' = the default
ARGV[5] deadline_ms  integer, ms since the epoch: end whatever the activity;
                     '' = none
ARGV[6] absolute_ms  integer, absolute timeout, ms; 0 = none
ARGV[7] first_ms     integer, life until the first load, ms; 0 = as any other
ARGV[8] use_ttl      '1' = the key gets a TTL, '0' = field `expires` (LRU mode)
ARGV[9...]           field, value, field, value, ...; the first 9 bytes of the
                     value of a flash message (field '~...') give way to its
                     place in the order: the time, and which of these it is

Returns: {status, ...}
  0 GONE    {0} the session would already be at its end; nothing is created
  2 MOVED   {2, age_ms} this call had created the session, which has ended
            age_ms ago
  3 CREATED {3, remaining_ms, created_ms, token_ms}; remaining_ms -1 = never
            ends; token_ms = when this id was made, ms since the epoch
  4 TAKEN   {4} something else is stored under this id
Writes: HSET, PEXPIRE; or nothing
]]
local session_key = KEYS[1]
local nonce = ARGV[1]
local created_ms = tonumber(ARGV[2])
local timeout_ms = tonumber(ARGV[3])
local adjusted = ARGV[4] == '1'
local deadline_ms = tonumber(ARGV[5])
local absolute_ms = tonumber(ARGV[6])
local first_ms = tonumber(ARGV[7])
local use_ttl = ARGV[8] == '1'
local MAX_MS = 3200000000000 -- about a hundred years, well within PEXPIRE's range
local FIRST_FIELD = 9
local MESSAGE = 126 -- '~'
local ORDER_SIZE = 9
local BATCH = 4000 -- arguments of one HSET; unpack takes about 8,000

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if redis.call('EXISTS', session_key) == 1 then
  local created = redis.pcall('HGET', session_key, 'created')
  if type(created) == 'string' then
    local start, made_by = string.match(created, '^(%d+) (.+)$')
    if made_by == nonce then
      local remaining = redis.call('PTTL', session_key)
      local expires = redis.call('HGET', session_key, 'expires')
      if expires then remaining = (tonumber(expires) or now_ms) - now_ms end
      local token = redis.call('HGET', session_key, 'token')
      return {3, remaining, tonumber(start), tonumber(token or start)}
    end
  end
  local moved = redis.pcall('HGET', session_key, 'moved')
  if type(moved) == 'string' then
    local at, made_by = string.match(moved, '^(%d+) %S+ (.+)$')
    if made_by == nonce then return {2, now_ms - tonumber(at)} end
  end
  return {4}
end

created_ms = created_ms or now_ms
local life = math.huge
if timeout_ms > 0 then life = timeout_ms end
if first_ms > 0 then life = math.min(life, first_ms) end
if absolute_ms > 0 then life = math.min(life, created_ms + absolute_ms - now_ms) end
if deadline_ms then life = math.min(life, deadline_ms - now_ms) end
if life <= 0 then return {0} end
if life < math.huge then life = math.min(life, MAX_MS) end

local meta = {'created', string.format('%.0f', created_ms) .. ' ' .. nonce}
if created_ms ~= now_ms then
  meta[#meta + 1] = 'token'
  meta[#meta + 1] = string.format('%.0f', now_ms)
end
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
for i = FIRST_FIELD, #ARGV, 2 do
  if string.byte(ARGV[i]) == MESSAGE then
    local nth = (i - FIRST_FIELD) / 2 % 65536
    ARGV[i + 1] = struct.pack('>I7I2', time[1] * 1000000 + time[2], nth)
      .. string.sub(ARGV[i + 1], ORDER_SIZE + 1)
  end
end
for i = FIRST_FIELD, #ARGV, BATCH do
  redis.call('HSET', session_key, unpack(ARGV, i, math.min(i + BATCH - 1, #ARGV)))
end
if use_ttl and life < math.huge then
  redis.call('PEXPIRE', session_key, string.format('%.0f', life))
end
return {3, life < math.huge and life or -1, created_ms, now_ms}
