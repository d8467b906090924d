--[[
save_if_changed: apply a request's changes to a session that still lives.

It never creates a session: what was ended, expired or evicted stays so. In
retry mode the save applies only if what the request read is still true.

KEYS[1] session_key   hash that holds the session
ARGV[1] timeout_ms    integer, default idle timeout, ms; 0 = never
ARGV[2] absolute_ms   integer, absolute timeout, ms; 0 = none
ARGV[3] use_ttl       '1' = the key has a TTL, '0' = field `expires` (LRU mode)
ARGV[4] new_timeout   integer, the session's own idle timeout from now on, ms,
                      0 = never; '' = unchanged
ARGV[5] new_deadline  integer, ms since the epoch; 0 = none; '' = unchanged
ARGV[6] save_id       string of A-Z, a-z, 0-9, '-', '_', unique to this save:
                      the same call, repeated after a lost reply, is recognised
                      by it, and writes nothing over what came in between
ARGV[7] remember_s    integer, how long a repeated call is recognised, seconds,
                      below 128
ARGV[8] undoable      '0' = nobody takes saves back; '1' = others may: note with
                      the save id which fields this save wrote, so that they
                      are left alone; '2' = this one may be, too: return what
                      it replaces
ARGV[9] end_if_empty  integer, TTL of the marker, ms, that is left if no value
                      remains; 0 = an empty session lives on
ARGV[10] names        digest of the set of fields read; '' = not read
ARGV[11] n_checks     integer, number of checks
ARGV[12] n_deletes    integer, number of fields to delete
ARGV[13...]           n_checks times: field, check ('' = absent, '+' = present,
                      else the SHA1 of its value); n_deletes fields; then
                      field, value, ... to set; the first 9 bytes of the value
                      of a flash message (field '~...') give way to its place
                      in the order: the time, and which of these it is

Returns: {status, ...}
  0 GONE     {0} no session is stored here; {0, 1} it has reached its end
  2 MOVED    {2, age_ms} the session ended age_ms ago
  5 SAVED    {5, remaining_ms}; remaining_ms -1 = never ends; with undoable =
             '2' {5, remaining_ms, {value, ...}}: what stood in the fields that
             were deleted, in those that were set, in `timeout` and `deadline`;
             nil = absent; only the first of repeated calls knows
  6 CONFLICT {6} a check failed; nothing was applied
  7 EMPTIED  {7} no value remained; the session ended
Writes: HDEL, HSET, HSET saves, PEXPIRE, PERSIST; DEL, HSET moved, PEXPIRE; or
nothing
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
local undoable = ARGV[8]
local end_if_empty = tonumber(ARGV[9])
local names = ARGV[10]
local n_checks = tonumber(ARGV[11])
local n_deletes = tonumber(ARGV[12])
local BATCH = 4000 -- arguments of one call; unpack takes about 8,000
-- Save ids remembered at most. A call that is repeated after so many others is not
-- recognised: it writes its values over newer ones, and what was deleted since is back.
local SAVES = 100
-- One save: its id, ':' and hashes of the fields it wrote, and as one byte the second
-- of it, modulo 128. So short that six stay within hash-max-listpack-value.
local SAVE = '(([^:\128-\255]+):?([^\128-\255]*)([\128-\255]))'
local NOTED = 20 -- fields noted with a save; of more, '*' stands for any
local MESSAGE = 126 -- '~'
local ORDER_SIZE = 9
local FIRST_CHECK = 13
local first_delete = FIRST_CHECK + 2 * n_checks
local first_set = first_delete + n_deletes

local meta = redis.call('HMGET', session_key,
  'created', 'timeout', 'deadline', 'expires', 'first', 'saves', 'moved', 'token')
local created, timeout, deadline, expires, first, saves, moved = unpack(meta)
if saves and (string.byte(saves, -1) or 0) < 128 then saves = false end -- none of ours
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now_s = time[1] % 128
local moment = string.char(128 + now_s)

if not created then
  if not moved then return {0} end
  if string.match(moved, '^%d+ (%S+)') == save_id then return {7} end
  for _, id in string.gmatch(saves or '', SAVE) do
    if id == save_id then return {5, 0} end -- it was saved before the session ended
  end
  -- Emptied by another request: what this one read is no longer so.
  if string.sub(moved, 1, 2) == '0 ' and (n_checks > 0 or names ~= '') then return {6} end
  return {2, now_ms - (tonumber(string.match(moved, '^%d+')) or 0)}
end

local repeated = false
local remembered = {save_id .. moment}
for save, id, _, at in string.gmatch(saves or '', SAVE) do
  if id == save_id then repeated = true end
  if (now_s - string.byte(at)) % 128 <= remember_s and #remembered < SAVES then
    remembered[#remembered + 1] = save
  end
end
if repeated then new_timeout, new_deadline = nil, nil end
local old_timeout, old_deadline = timeout, deadline

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

local replaced
if not repeated then
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
  for i = FIRST_CHECK, first_delete - 1, 2 do
    local value = redis.call('HGET', session_key, ARGV[i])
    local check = ARGV[i + 1]
    if check == '' and value
      or check == '+' and not value
      or #check > 1 and (not value or redis.sha1hex(value) ~= check) then
      return {6}
    end
  end

  if undoable ~= '0' then
    local fields, hashes = {}, {}
    for i = first_delete, first_set - 1 do fields[#fields + 1] = ARGV[i] end
    for i = first_set, #ARGV, 2 do fields[#fields + 1] = ARGV[i] end
    if #fields <= NOTED then
      for i = 1, #fields do hashes[i] = string.sub(redis.sha1hex(fields[i]), 1, 3) end
    end
    if new_timeout then hashes[#hashes + 1] = string.sub(redis.sha1hex('timeout'), 1, 3) end
    if new_deadline then hashes[#hashes + 1] = string.sub(redis.sha1hex('deadline'), 1, 3) end
    local wrote = #fields <= NOTED and table.concat(hashes) or '*'
    remembered[1] = save_id .. ':' .. wrote .. moment
    if undoable == '2' then
      local found = {}
      for i = 1, #fields, BATCH do
        local last = math.min(i + BATCH - 1, #fields)
        local values = redis.call('HMGET', session_key, unpack(fields, i, last))
        for j = i, last do found[j] = values[j - i + 1] end
      end
      found[#found + 1] = old_timeout
      found[#found + 1] = old_deadline
      replaced = found
    end
  end

  for i = first_delete, first_set - 1, BATCH do
    redis.call('HDEL', session_key, unpack(ARGV, i, math.min(i + BATCH - 1, first_set - 1)))
  end
  if end_if_empty > 0 and first_set > #ARGV then
    local held = 0
    for i = 1, #meta do
      if meta[i] then held = held + 1 end
    end
    if redis.call('HLEN', session_key) == held then
      redis.call('PEXPIRE', session_key, end_if_empty)
      -- No load takes itself for a request in flight here: what the user does
      -- next goes into a new session.
      redis.call('HSET', session_key, 'moved', '0 ' .. save_id)
      redis.call('HDEL', session_key,
        'created', 'timeout', 'deadline', 'expires', 'first', 'token')
      return {7}
    end
  end
  for i = first_set, #ARGV, 2 do
    if string.byte(ARGV[i]) == MESSAGE then
      local nth = (i - first_set) / 2 % 65536
      ARGV[i + 1] = struct.pack('>I7I2', time[1] * 1000000 + time[2], nth)
        .. string.sub(ARGV[i + 1], ORDER_SIZE + 1)
    end
  end
  ARGV[#ARGV + 1] = 'saves'
  ARGV[#ARGV + 1] = table.concat(remembered)
  for i = first_set, #ARGV, BATCH do
    redis.call('HSET', session_key, unpack(ARGV, i, math.min(i + BATCH - 1, #ARGV)))
  end
  if new_timeout then redis.call('HSET', session_key, 'timeout', timeout) end
  if new_deadline then
    if deadline then redis.call('HSET', session_key, 'deadline', deadline)
    else redis.call('HDEL', session_key, 'deadline')
    end
  end
end

if life <= 0 then
  -- adjust_session_expires named a moment that has passed: this is the end.
  redis.call('DEL', session_key)
  return {5, 0, replaced}
elseif life == math.huge then
  redis.call('PERSIST', session_key)
  if expires then redis.call('HDEL', session_key, 'expires') end
  return {5, -1, replaced}
elseif use_ttl then
  redis.call('PEXPIRE', session_key, life == timeout_ms and ARGV[1] or string.format('%.0f', life))
  if expires then redis.call('HDEL', session_key, 'expires') end
else
  redis.call('HSET', session_key, 'expires', string.format('%.0f', now_ms + life))
  redis.call('PERSIST', session_key)
end
return {5, life, replaced}
