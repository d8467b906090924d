--[[
end_session: end a session and leave a marker that it has ended.

The marker makes every request in flight see that the session is over, and
keeps the id from being used again. It points nowhere. With keep_fields (a new
id takes the data over, or a transaction may still fail) the fields stay beside
the marker until it expires, without `created`, so that to every script the
session has ended. But this call, repeated after a lost reply, returns them
again, and no write which slipped in before the end is lost; and revive_session
can take the end back. The marker also tells which call had created the session:
should that one be repeated, it finds that its session has ended. So `moved` is
`<ended_ms> <nonce> <nonce of create_unique>`; the last is missing where there
was no session.

KEYS[1] session_key  hash that holds the session
ARGV[1] nonce        string without spaces, unique to this call
ARGV[2] marker_ms    integer, TTL of the marker, ms
ARGV[3] keep_fields  '1' = return the fields, and keep them beside the marker;
                     '0' = delete them
ARGV[4] mark         '1' = where there is no session, leave a marker too: one that
                     is about to be created under this id is not
ARGV[5] created_by   nonce of the create_unique call whose session it is to be; of
                     what another one has created under the id nothing happens.
                     '' = whoever's
ARGV[6] names        digest of the set of fields read; '' = not read
ARGV[7...]           field, check, ... ('' = absent, '+' = present, else the
                     SHA1 of its value): if one fails, nothing happens

Returns: {status, ...}
  0 GONE     {0} no session is stored here, or this call was taken back before it
             came; {0, 1} it had reached its end
  2 MOVED    {2, age_ms} another call ended the session age_ms ago
  6 CONFLICT {6} a check failed; nothing was applied
  9 ENDED    {9, {field, value, ...}} the last fields (with keep_fields)
Writes: PEXPIRE, HSET moved, HSET was, HDEL; DEL; or nothing
]]
local session_key = KEYS[1]
local nonce = ARGV[1]
local marker_ms = tonumber(ARGV[2])
local keep_fields = ARGV[3] == '1'
local mark = ARGV[4] == '1'
local created_by = ARGV[5]
local names = ARGV[6]
local FIRST_CHECK = 7
local BATCH = 4000 -- arguments of one call; unpack takes about 8,000

local created, expires, moved, saves = unpack(redis.call('HMGET', session_key,
  'created', 'expires', 'moved', 'saves'))
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if created_by ~= '' and (created or moved) then
  local maker = string.match(created or '', '^%d+ (%S+)$')
    or string.match(moved or '', '^%d+ %S+ (%S+)$')
  if maker ~= created_by then return {0} end
end

local marker = string.format('%.0f ', now_ms) .. nonce

if not created then
  if not moved then
    if mark and redis.call('EXISTS', session_key) == 0 then
      redis.call('HSET', session_key, 'moved', marker)
      redis.call('PEXPIRE', session_key, marker_ms)
    end
    return {0}
  end
  local at, ended_by, made_by = string.match(moved, '^(%d+) (%S+) ?(.*)$')
  if ended_by ~= nonce then
    -- Ended twice: what the first call kept must not be revived any more.
    redis.call('HDEL', session_key, 'was')
    if at == '0' then
      -- It emptied itself (see save_if_changed). From this login or logout on,
      -- who still comes with the id is in flight.
      redis.call('HSET', session_key, 'moved', marker)
      redis.call('PEXPIRE', session_key, marker_ms)
      return {2, 0}
    end
    return {2, now_ms - (tonumber(at) or 0)}
  end
  if made_by == '' then return {0} end
  return {9, keep_fields and redis.call('HGETALL', session_key) or {}}
end
-- The TTL first: a script that has written is not refused memory for the rest.
-- And the key never vanishes in between: in a slot that is leaving the node, it
-- could not come back.
local function leave_only_the_marker()
  redis.call('PEXPIRE', session_key, marker_ms)
  redis.call('HSET', session_key, 'moved', marker)
  local names = redis.call('HKEYS', session_key)
  for i = 1, #names, BATCH do
    local gone = {}
    for j = i, math.min(i + BATCH - 1, #names) do
      -- A save whose reply was lost is still recognised, see save_if_changed.
      if names[j] ~= 'moved' and names[j] ~= 'saves' then gone[#gone + 1] = names[j] end
    end
    if #gone > 0 then redis.call('HDEL', session_key, unpack(gone)) end
  end
end

if saves and string.find(saves, nonce, 1, true) then return {0} end -- see revive_session

if expires and (tonumber(expires) or 0) <= now_ms then
  if mark then leave_only_the_marker() else redis.call('DEL', session_key) end
  return {0, 1}
end

if names ~= '' then
  -- The digest does not depend on order: a count, and a sum of 48-bit hashes.
  local count, sum = 0, 0
  for _, name in ipairs(redis.call('HKEYS', session_key)) do
    local kind = string.sub(name, 1, 1)
    if kind == '.' or kind == '#' or kind == '~' then
      count = count + 1
      sum = (sum + tonumber(string.sub(redis.sha1hex(name), 1, 12), 16)) % 281474976710656
    end
  end
  if names ~= string.format('%d:%.0f', count, sum) then return {6} end
end
for i = FIRST_CHECK, #ARGV, 2 do
  local value = redis.call('HGET', session_key, ARGV[i])
  local check = ARGV[i + 1]
  if check == '' and value
    or check == '+' and not value
    or #check > 1 and (not value or redis.sha1hex(value) ~= check) then
    return {6}
  end
end

-- A session that was stored otherwise has no nonce.
marker = marker .. ' ' .. (string.match(created, '^%d+ (%S+)$') or '-')
local fields = {}
if keep_fields then
  local remaining = redis.call('PTTL', session_key)
  redis.call('PEXPIRE', session_key, marker_ms)
  redis.call('HSET', session_key, 'moved', marker, 'was', remaining .. ' ' .. created)
  redis.call('HDEL', session_key, 'created')
  fields = redis.call('HGETALL', session_key)
else
  leave_only_the_marker()
end
return {9, fields}
