--[[
swap_fields: replace fields of a live session, each only if it is still the same.

It takes a save back where a transaction or an attempt failed after it, and
seals values anew. It leaves the lifetime alone.

KEYS[1] session_key  hash that holds the session
ARGV[1] save_id      string of A-Z, a-z, 0-9, '-', '_', unique to this call,
                     by which it is recognised when it is repeated after a lost
                     reply
ARGV[2] remember_s   integer, how long it is, seconds, below 128
ARGV[3] undone       save_id of the save that is taken back: fields that a later
                     one has written, as far as it noted that, are left alone,
                     also where they are the same. Should it come only now, it
                     writes nothing. '' = none
ARGV[4...]           field, expected, new, ...: expected is the SHA1 of the
                     field's value, '' = absent, '+' = present; new is '' =
                     delete the field, or '=' followed by the value to set

Returns: {status, ...}
  0 GONE  {0} no session is stored here
  2 MOVED {2, age_ms} the session ended age_ms ago
  5 SAVED {5, swapped} how many fields were still the same; -1 = a repeated
          call, which does nothing
Writes: HSET, HDEL, HSET saves; or nothing
]]
local session_key = KEYS[1]
local save_id = ARGV[1]
local remember_s = tonumber(ARGV[2])
local undone = ARGV[3]
local SAVES = 100 -- save ids remembered at most
local SAVE = '(([^:\128-\255]+):?([^\128-\255]*)([\128-\255]))' -- see save_if_changed
local FIRST_SWAP = 4

local created, moved, saves = unpack(
  redis.call('HMGET', session_key, 'created', 'moved', 'saves'))
if saves and (string.byte(saves, -1) or 0) < 128 then saves = false end -- none of ours
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now_s = time[1] % 128
if not created then
  if not moved then return {0} end
  return {2, now_ms - (tonumber(string.match(moved, '^%d+')) or 0)}
end

local found = false
local written_later, all_written = {}, false
local remembered = {save_id .. string.char(128 + now_s)}
for save, id, hashes, at in string.gmatch(saves or '', SAVE) do
  if id == save_id then return {5, -1} end
  if id == undone then found = true end
  if not found and hashes == '*' then all_written = true end
  if not found then
    for hash in string.gmatch(hashes, '...') do written_later[hash] = true end
  end
  if (now_s - string.byte(at)) % 128 <= remember_s and #remembered < SAVES then
    remembered[#remembered + 1] = save
  end
end

if undone ~= '' and not found then
  -- It has not come yet, if it ever does: then it counts as repeated.
  table.insert(remembered, 2, undone .. string.char(128 + now_s))
end

local swapped = 0
for i = FIRST_SWAP, #ARGV, 3 do
  local field, expected, new = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local value = redis.call('HGET', session_key, field)
  local left_alone = found
    and (all_written or written_later[string.sub(redis.sha1hex(field), 1, 3)])
  local same = expected == (value and redis.sha1hex(value) or '') or expected == '+' and value
  if same and not left_alone then
    swapped = swapped + 1
    if new == '' then redis.call('HDEL', session_key, field)
    else redis.call('HSET', session_key, field, string.sub(new, 2))
    end
  end
end
redis.call('HSET', session_key, 'saves', table.concat(remembered))
return {5, swapped}
