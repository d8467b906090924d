--[[
stage_save: announce the save that a transaction will make when it commits, or give it up.

For retry mode: what the request read is checked here, and from then on nobody changes it,
nor what it will write, until that save (see save_if_changed and renew_token) or `hold_ms`
later. Calls that touch other fields go on. Nothing of the announced values is stored.

KEYS[1] session_key  hash that holds the session
ARGV[1] digest       16 bytes, BLAKE2b of the verifier that the cookie holds
ARGV[2] stage_id     string of A-Z, a-z, 0-9, '-', '_', unique to this stage; staging
                     again replaces it, so the call can be repeated
ARGV[3] hold_ms      integer, how long it holds, ms, a minute at most; 0 = it is given up
ARGV[4] reads        8 hexadecimal digits of the SHA1 of each field that was read;
                     '*' = the set of fields, or all of them
ARGV[5] writes       the same, of those that will be written
ARGV[6] names        digest of the set of fields read; '' = not read
ARGV[7...]           field, check, ... ('' = absent, '+' = present, else the
                     SHA1 of its value): if one fails, nothing is staged

Returns: {status, ...}
  0 GONE     {0} no session is stored here
  2 MOVED    {2, age_ms} the session ended age_ms ago; {2, age_ms, 1} its token was
             replaced age_ms ago; 2: and it is an owner's
  5 SAVED    {5} it is staged, or given up
  6 CONFLICT {6} a check failed
  10 BUSY    {10} another has staged what clashes with this
Writes: HSET staged, HDEL staged; or nothing
]]
local session_key = KEYS[1]
local digest = ARGV[1]
local stage_id = ARGV[2]
local hold_ms = tonumber(ARGV[3])
local reads = ARGV[4]
local writes = ARGV[5]
local names = ARGV[6]
local first_check, last_check = 7, #ARGV

local token, staged, moved = unpack(redis.call('HMGET', session_key,
  '@', 'staged', 'moved'))
-- @include clock
-- @include gone
-- @include moments
if hold_ms == 0 then reads, writes = '', ''
else
  -- @include token
end
-- @include staged
if hold_ms > 0 then
  -- @include checks
  others = string.format('%s:%.0f:%s:%s;', stage_id, now_ms + hold_ms, reads, writes) .. others
end
if others ~= '' then redis.call('HSET', session_key, 'staged', others)
elseif staged then redis.call('HDEL', session_key, 'staged')
end
return {5}
