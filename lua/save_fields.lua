--[[
save_fields: as save_if_changed, where nothing but fields is to be set and deleted, keys have a
TTL and there is no absolute timeout. A busy application calls it at every second request: so it
has few arguments, and few calls, each of which takes Redis time.

KEYS[1] session_key  hash that holds the session
ARGV[1] call         27 bytes: the digest (16) of the verifier that the cookie holds; the save_id
                     (6), unique to this save: the same call, repeated after a lost reply, is
                     recognised by it, and writes nothing over what came in between; how long it
                     is recognised, seconds, below 246 (1); the number of fields to delete (4)
ARGV[2] timeout_ms   integer, default idle timeout, ms, not 0. It is refreshed, unless the session
                     has lifetimes of its own: these its load has seen, or who gave it them has
                     refreshed it since
ARGV[3...]           fields to delete; then field, value, ... to set; see set_fields

Returns: {status, ...}
  0 GONE     {0} no session is stored here
  2 MOVED    {2, age_ms} the session ended age_ms ago; {2, age_ms, 1} its token was
             replaced age_ms ago; 2: and it is an owner's
  5 SAVED    {5, remaining_ms}; -1 = never ends; or 5 alone where that is timeout_ms
Writes: HDEL, HSET, HSET saves, PEXPIRE; or nothing
]]
local session_key = KEYS[1]
local call = ARGV[1]
local timeout_ms = ARGV[2]
local first_delete = 3
local digest, save_id, remember_s, n_deletes = struct.unpack('>c16c6BI4', call)
local first_set = first_delete + n_deletes

local token, saves = unpack(redis.call('HMGET', session_key, '@', 'saves'))
local time = redis.call('TIME')
-- @include remembered
if repeated then return 5 end
if not token or string.sub(token, 1, 16) ~= digest then
  local moved = redis.call('HGET', session_key, 'moved')
  -- @include clock
  -- @include gone
  -- @include moments
  -- @include token
end
-- @include delete_fields
-- @include remember
ARGV[#ARGV + 1] = 'saves'
ARGV[#ARGV + 1] = saves
-- @include set_fields
if #token % 2 == 1 then return {5, redis.call('PTTL', session_key)} end
redis.call('PEXPIRE', session_key, timeout_ms)
return 5
