--[[
save_fields: as save_if_changed, where nothing but fields is to be set and deleted.

KEYS[1] session_key   hash that holds the session
ARGV[1] digest        16 bytes, BLAKE2b of the verifier that the cookie holds
ARGV[2] timeout_ms    integer, default idle timeout, ms; 0 = never
ARGV[3] absolute_ms   integer, absolute timeout, ms; 0 = none
ARGV[4] use_ttl       '1' = the key has a TTL, '0' = field `expires` (LRU mode)
ARGV[5] save_id       6 bytes, unique to this save: the same call, repeated after a
                      lost reply, is recognised by it, and writes nothing over
                      what came in between
ARGV[6] remember_s    integer, how long a repeated call is recognised, seconds,
                      below 246
ARGV[7] n_deletes     integer, number of fields to delete
ARGV[8...]            n_deletes fields; then field, value, ... to set; see set_fields

Returns: {status, ...}
  0 GONE     {0} no session is stored here; {0, 1} it has reached its end
  2 MOVED    {2, age_ms} the session ended age_ms ago; {2, age_ms, 1} its token was
             replaced age_ms ago; 2: and it is an owner's
  5 SAVED    {5, remaining_ms, now_ms}; remaining_ms -1 = never ends
Writes: HDEL, HSET, HSET saves, PEXPIRE, PERSIST; DEL of an ended session; or nothing
]]
local session_key = KEYS[1]
local digest = ARGV[1]
local timeout_ms = tonumber(ARGV[2])
local absolute_ms = tonumber(ARGV[3])
local use_ttl = ARGV[4] == '1'
local save_id = ARGV[5]
local remember_s = tonumber(ARGV[6])
local n_deletes = tonumber(ARGV[7])
local first_delete = 8
local first_set = first_delete + n_deletes
local new_timeout, new_deadline

local token, timeout, deadline, expires, first, saves, moved = unpack(
  redis.call('HMGET', session_key,
    '@', 'timeout', 'deadline', 'expires', 'first', 'saves', 'moved'))
-- @include clock
local answer = {5, 0, now_ms}
-- @include applied_before
-- @include gone
-- @include moments
-- @include remembered
if not repeated then
  -- @include token
end
-- @include life
if not repeated then
  -- @include delete_fields
  -- @include remember
  ARGV[#ARGV + 1] = 'saves'
  ARGV[#ARGV + 1] = saves
  -- @include set_fields
end
-- @include live_on
return {5, remaining, now_ms}
