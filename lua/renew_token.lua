--[[
renew_token: put a new token in the place of a session's: a login, or regenerate_id().

All values come with it, sealed for the new token. So it applies only if nothing was saved since
they were loaded; of many that began with one load, a single one stands. The session keeps its
key, and from here on the old token opens nothing.

KEYS[1]  session_key   hash that holds the session
ARGV[1]  digest        16 bytes, BLAKE2b of the verifier that the cookie holds
ARGV[2]  timeout_ms    integer, default idle timeout, ms; 0 = never
ARGV[3]  absolute_ms   integer, absolute timeout, ms; 0 = none
ARGV[4]  use_ttl       '1' = the key has a TTL, '0' = field `expires` (LRU mode)
ARGV[5]  save_id       6 bytes, as in save_if_changed
ARGV[6]  remember_s    integer, how long a repeated call is recognised, seconds,
                       below 246
ARGV[7]  new_timeout   integer, the session's own idle timeout from now on, ms,
                       0 = never, -1 = the default; '' = unchanged
ARGV[8]  new_deadline  integer, ms since the epoch; 0 = none; '' = unchanged
ARGV[9]  new_digest    16 bytes, digest of the new verifier
ARGV[10] loaded_saves  field `saves` as it was loaded
ARGV[11] restart       '1' = the session's life begins anew; '0' = it does not
ARGV[12] mark          '+' = it holds what is told from the time; '' = it does not
ARGV[13] stage_id      of stage_save, if that came first: it ends; '' = none
ARGV[14] reads         '*' = all fields, as in stage_save; '' = merge mode
ARGV[15] message       published if the session ends: who ended; '' = nothing is
ARGV[16] n_deletes     integer, number of fields to delete
ARGV[17...]            n_deletes fields; then field, value, ... to set: all that
                       are sealed; see set_fields

Returns: {status, ...}
  0 GONE     {0} no session is stored here; {0, 1} it has reached its end
  2 MOVED    {2, age_ms} the session ended age_ms ago; {2, age_ms, 1} its token was
             replaced age_ms ago; 2: and it is an owner's
  5 SAVED    {5, remaining_ms, now_ms}; remaining_ms -1 = never ends
  6 CONFLICT {6} something was saved meanwhile; nothing was applied
  9 ENDED    {9} this call had put its token in place; the session has ended since
  10 BUSY    {10} another has staged something; nothing was applied
Writes: HDEL, HSET, HSET saves, PEXPIRE, PERSIST; DEL; HSET moved; SPUBLISH or PUBLISH;
or nothing
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
local new_digest = ARGV[9]
local loaded_saves = ARGV[10]
local restart = ARGV[11] == '1'
local mark = ARGV[12]
local stage_id = ARGV[13]
local reads = ARGV[14]
local writes = reads
local message = ARGV[15]
local n_deletes = tonumber(ARGV[16])
local first_delete = 17
local first_set = first_delete + n_deletes

local token, timeout, deadline, expires, first, saves, staged, moved = unpack(redis.call('HMGET',
  session_key, '@', 'timeout', 'deadline', 'expires', 'first', 'saves', 'staged', 'moved'))
-- @include clock
-- First: who is told that this was saved would get the cookie of a session that is over.
if moved and not token and string.sub(moved, 7, 22) == new_digest then return {9} end
local answer = {5, 0, now_ms}
-- @include applied_before
if moved and not token and string.sub(moved, 23) == '0' then
  -- It emptied itself. From this login on, who still comes with its cookie is in flight.
  redis.call('HSET', session_key, 'moved',
    string.sub(moved, 1, 22) .. string.format('%.0f', now_ms))
  return {2, 0}
end
-- @include gone
-- @include moments
-- @include remembered
if repeated then new_timeout, new_deadline = nil, nil
else
  -- @include token
  if restart or not start_ms then start_ms = now_ms end
  local digest = new_digest
  -- @include place_token
end
-- @include life

if not repeated then
  if loaded_saves ~= (saves or '') then return {6} end
  -- @include staged
  -- First: where memory is short, Redis refuses it like the index before it, and no other.
  redis.call('HSET', session_key, '@', token)
  -- @include delete_fields
  -- @include remember
  ARGV[#ARGV + 1] = 'saves'
  ARGV[#ARGV + 1] = saves
  -- @include set_fields
  -- @include unstage
end
-- @include live_on
if remaining == 0 then
  -- @include publish
end
return {5, remaining, now_ms}
