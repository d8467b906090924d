--[[
adjust_timeout: change only the lifetime of a session that still lives.

With nothing to change it is the cheapest way to refresh a session and to learn
whether it lives.

KEYS[1] session_key   hash that holds the session
ARGV[1] timeout_ms    integer, default idle timeout, ms; 0 = never
ARGV[2] absolute_ms   integer, absolute timeout, ms; 0 = none
ARGV[3] use_ttl       '1' = the key has a TTL, '0' = field `expires` (LRU mode)
ARGV[4] new_timeout   integer, the session's own idle timeout from now on, ms,
                      0 = never; '' = unchanged
ARGV[5] new_deadline  integer, ms since the epoch; 0 = none; '' = unchanged
ARGV[6] save_id       string of A-Z, a-z, 0-9, '-', '_', unique to this call,
                      by which it is recognised when it is repeated after a lost
                      reply; only with ARGV[4] or ARGV[5]
ARGV[7] remember_s    integer, how long it is, seconds, below 128

Returns: {status, ...}
  0 GONE     {0} no session is stored here; {0, 1} it has reached its end
  2 MOVED    {2, age_ms} the session ended age_ms ago
  8 ADJUSTED {8, remaining_ms}; remaining_ms -1 = never ends, 0 = it ends now,
             or has ended since
Writes: HSET, HSET saves, HDEL, PEXPIRE, PERSIST; DEL of an ended session; or nothing
]]
local session_key = KEYS[1]
local timeout_ms = tonumber(ARGV[1])
local absolute_ms = tonumber(ARGV[2])
local use_ttl = ARGV[3] == '1'
local MAX_MS = 3200000000000 -- about a hundred years, well within PEXPIRE's range
local new_timeout = tonumber(ARGV[4])
local new_deadline = tonumber(ARGV[5])
local save_id = ARGV[6]
local remember_s = tonumber(ARGV[7])
local SAVES = 100 -- save ids remembered at most
local SAVE = '(([^:\128-\255]+):?([^\128-\255]*)([\128-\255]))' -- see save_if_changed

local created, timeout, deadline, expires, first, saves, moved = unpack(
  redis.call('HMGET', session_key,
    'created', 'timeout', 'deadline', 'expires', 'first', 'saves', 'moved'))
if saves and (string.byte(saves, -1) or 0) < 128 then saves = false end -- none of ours
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if not created then
  if not moved then return {0} end
  for _, id in string.gmatch(saves or '', SAVE) do
    if id == save_id then return {8, 0} end -- it was adjusted before the session ended
  end
  return {2, now_ms - (tonumber(string.match(moved, '^%d+')) or 0)}
end

if new_timeout or new_deadline then
  local now_s = time[1] % 128
  local repeated = false
  -- What was written is noted, as save_if_changed does where saves may be taken back.
  local wrote = (new_timeout and string.sub(redis.sha1hex('timeout'), 1, 3) or '')
    .. (new_deadline and string.sub(redis.sha1hex('deadline'), 1, 3) or '')
  local remembered = {save_id .. ':' .. wrote .. string.char(128 + now_s)}
  for save, id, _, at in string.gmatch(saves or '', SAVE) do
    if id == save_id then repeated = true end
    if (now_s - string.byte(at)) % 128 <= remember_s and #remembered < SAVES then
      remembered[#remembered + 1] = save
    end
  end
  if repeated then new_timeout, new_deadline = nil, nil
  else saves = table.concat(remembered)
  end
end

if new_timeout then timeout = ARGV[4] end
local idle = tonumber(timeout or nil) or timeout_ms
local life = math.huge
if idle > 0 then life = idle end
if first then life = math.min(life, tonumber(first) or life) end
if absolute_ms > 0 then
  life = math.min(life, (tonumber(string.match(created, '^%d+')) or 0) + absolute_ms - now_ms)
end
if life <= 0 or (deadline and (tonumber(deadline) or 0) <= now_ms)
  or (expires and (tonumber(expires) or 0) <= now_ms) then
  redis.call('DEL', session_key)
  return {0, 1}
end
if new_deadline then deadline = new_deadline > 0 and ARGV[5] or false end
if deadline then life = math.min(life, (tonumber(deadline) or 0) - now_ms) end
if life < math.huge then life = math.min(life, MAX_MS) end

if new_timeout or new_deadline then redis.call('HSET', session_key, 'saves', saves) end
if new_timeout then redis.call('HSET', session_key, 'timeout', timeout) end
if new_deadline then
  if deadline then redis.call('HSET', session_key, 'deadline', deadline)
  else redis.call('HDEL', session_key, 'deadline')
  end
end

if life <= 0 then
  redis.call('DEL', session_key)
  return {8, 0}
elseif life == math.huge then
  redis.call('PERSIST', session_key)
  if expires then redis.call('HDEL', session_key, 'expires') end
  return {8, -1}
elseif use_ttl then
  redis.call('PEXPIRE', session_key, string.format('%.0f', life))
  if expires then redis.call('HDEL', session_key, 'expires') end
else
  redis.call('HSET', session_key, 'expires', string.format('%.0f', now_ms + life))
  redis.call('PERSIST', session_key)
end
return {8, life}
