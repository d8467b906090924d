--[[
swap_fields: replace fields of a live session, each only if it is still the same.

It leaves the lifetime alone.

KEYS[1] session_key  hash that holds the session
ARGV[1...]           field, expected, new, ...: expected is the SHA1 of the
                     field's value, '' = absent; new is '' = delete the field,
                     or '=' followed by the value to set

Returns: {status, ...}
  0 GONE  {0} no session is stored here
  2 MOVED {2, age_ms} the session ended age_ms ago
  5 SAVED {5, swapped} how many fields were still the same
Writes: HSET, HDEL; or nothing
]]
local session_key = KEYS[1]

local created, moved = unpack(redis.call('HMGET', session_key, 'created', 'moved'))
if not created then
  if not moved then return {0} end
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  return {2, now_ms - (tonumber(string.match(moved, '^%d+')) or 0)}
end

local swapped = 0
for i = 1, #ARGV, 3 do
  local field, expected, new = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local value = redis.call('HGET', session_key, field)
  if expected == (value and redis.sha1hex(value) or '') then
    swapped = swapped + 1
    if new == '' then redis.call('HDEL', session_key, field)
    else redis.call('HSET', session_key, field, string.sub(new, 2))
    end
  end
end
return {5, swapped}
