--[[
save_if_changed: apply a request's changes to a session that still lives.

It never creates a session: what was ended, expired or evicted stays so. In
retry mode the save applies only if what the request read is still true.

KEYS[1]  session_key   hash that holds the session
ARGV[1]  digest        16 bytes, BLAKE2b of the verifier that the cookie holds
ARGV[2]  timeout_ms    integer, default idle timeout, ms; 0 = never
ARGV[3]  absolute_ms   integer, absolute timeout, ms; 0 = none
ARGV[4]  use_ttl       '1' = the key has a TTL, '0' = field `expires` (LRU mode),
                       '' = its end stays as it is
ARGV[5]  save_id       6 bytes, unique to this save: the same call, repeated after a
                       lost reply, is recognised by it, and writes nothing over
                       what came in between
ARGV[6]  remember_s    integer, how long a repeated call is recognised, seconds,
                       below 246
ARGV[7]  new_timeout   integer, the session's own idle timeout from now on, ms,
                       0 = never, -1 = the default; '' = unchanged
ARGV[8]  new_deadline  integer, ms since the epoch; 0 = none; '' = unchanged
ARGV[9]  mark          '+' = it holds what is told from the time; '' = unchanged
ARGV[10] end_if_empty  integer, TTL of the marker, ms, that is left if no value
                       remains, and nothing is staged; 0 = an empty session lives on
ARGV[11] stage_id      of stage_save, if that came first: it ends; '' = none
ARGV[12] reads         fields, as in stage_save; '' = merge mode
ARGV[13] writes        the same
ARGV[14] names         digest of the set of fields read; '' = not read
ARGV[15] n_checks      integer, number of checks
ARGV[16] n_deletes     integer, number of fields to delete
ARGV[17] message       published if the session ends: who ended; '' = nothing is
ARGV[18...]            n_checks times: field, check ('' = absent, '+' = present,
                       else the SHA1 of its value); n_deletes fields; then
                       field, value, ... to set; see set_fields

Returns: {status, ...}
  0 GONE     {0} no session is stored here; {0, 1} it has reached its end
  2 MOVED    {2, age_ms} the session ended age_ms ago; {2, age_ms, 1} its token was
             replaced age_ms ago; 2: and it is an owner's
  5 SAVED    {5, remaining_ms, now_ms}; remaining_ms -1 = never ends
  6 CONFLICT {6} a check failed; nothing was applied
  7 EMPTIED  {7} no value remained; the session ended
  10 BUSY    {10} another has staged what clashes with this; nothing was applied
Writes: HDEL, HSET, HSET saves, PEXPIRE, PERSIST; DEL, HSET moved, PEXPIRE;
SPUBLISH or PUBLISH; or nothing
]]
local session_key = KEYS[1]
local digest = ARGV[1]
local timeout_ms = tonumber(ARGV[2])
local absolute_ms = tonumber(ARGV[3])
local use_ttl = ARGV[4] == '1'
local save_id = ARGV[5]
local remember_s = tonumber(ARGV[6])
local new_timeout = tonumber(ARGV[7])
local new_deadline = tonumber(ARGV[8])
local mark = ARGV[9]
local end_if_empty = tonumber(ARGV[10])
local stage_id = ARGV[11]
local reads = ARGV[12]
local writes = ARGV[13]
local names = ARGV[14]
local n_checks = tonumber(ARGV[15])
local n_deletes = tonumber(ARGV[16])
local message = ARGV[17]
local first_check = 18
local first_delete = first_check + 2 * n_checks
local last_check = first_delete - 1
local first_set = first_delete + n_deletes

local meta = redis.call('HMGET', session_key,
  '@', 'timeout', 'deadline', 'expires', 'first', 'saves', 'staged', 'moved', 'device')
local token, timeout, deadline, expires, first, saves, staged, moved = unpack(meta)
-- @include clock
local answer = {5, 0, now_ms}
-- @include applied_before
if moved and not token then
  if string.sub(moved, 1, 6) == save_id then return {7} end
  -- Emptied by another request: what this one read is no longer so.
  if string.sub(moved, 23) == '0' and (n_checks > 0 or names ~= '') then return {6} end
end
-- @include gone
-- @include moments
-- @include remembered
if repeated then new_timeout, new_deadline = nil, nil
else
  -- @include token
  if mark ~= '' then token = string.sub(token, 1, #token - #token % 2) .. mark end
end
-- @include life

if not repeated then
  -- @include staged
  -- @include checks
  if mark ~= '' then redis.call('HSET', session_key, '@', token) end
  -- @include delete_fields
  -- What another has staged goes into this session when its transaction commits.
  if end_if_empty > 0 and first_set > #ARGV and others == '' then
    -- @include values_left
    if left == 0 then
      -- No load takes itself for a request in flight here: what the user does
      -- next goes into a new session.
      local marker, marker_ms = save_id .. digest .. '0', end_if_empty
      -- @include leave_marker
      -- @include publish
      return {7}
    end
  end
  -- @include remember
  ARGV[#ARGV + 1] = 'saves'
  ARGV[#ARGV + 1] = saves
  -- @include set_fields
  -- @include unstage
end
if ARGV[4] == '' then return {5, redis.call('PTTL', session_key), now_ms} end
-- @include live_on
if remaining == 0 then
  -- @include publish
end
return {5, remaining, now_ms}
