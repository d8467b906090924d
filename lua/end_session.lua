--[[
end_session: end a session and leave a marker that it has ended.

The marker makes every request in flight see that the session is over, and keeps
the locator from being used again. It is the field `moved`: the nonce of this call
(6 bytes), by which a repeated one is recognised, zeros where no session lived; the
session's last digest (16), by which a late create_unique learns that its session has
ended; and the moment, ms.

KEYS[1] session_key  hash that holds the session
ARGV[1] digest       16 bytes: end the session only if this is its token's; '' = whatever
                     its token
ARGV[2] nonce        6 bytes, unique to this call
ARGV[3] marker_ms    integer, TTL of the marker, ms
ARGV[4] mark         '1' = where there is no session, leave a marker too: one that
                     is about to be created with this digest is not
ARGV[5] names        digest of the set of fields read; '' = not read
ARGV[6] message      published where a session lived: who ended; '' = nothing is
ARGV[7...]           field, check, ... ('' = absent, '+' = present, else the
                     SHA1 of its value): if one fails, nothing happens

Returns: {status, ...}
  0 GONE     {0} no session is stored here; {0, 1} it had reached its end
  2 MOVED    {2, age_ms} another call ended the session age_ms ago; {2, age_ms, 1} its
             token was replaced age_ms ago; 2: and it is an owner's
  6 CONFLICT {6} a check failed; nothing was applied
  9 ENDED    {9}
Writes: PEXPIRE, HSET moved, HDEL, SPUBLISH or PUBLISH; DEL; or
nothing
]]
local session_key = KEYS[1]
local digest = ARGV[1]
local nonce = ARGV[2]
local marker_ms = tonumber(ARGV[3])
local mark = ARGV[4] == '1'
local names = ARGV[5]
local message = ARGV[6]
local first_check, last_check = 7, #ARGV

local token, expires, moved = unpack(redis.call('HMGET', session_key,
  '@', 'expires', 'moved'))
-- @include clock
local expired = token and expires and (tonumber(expires) or 0) <= now_ms
local last = digest
if token then last = string.sub(token, 1, 16) end
if #last < 16 then last = string.rep('\0', 16) end
-- What did not live was ended by no call, so that a repeated one does not say it was.
local ended_by = token and not expired and nonce or string.rep('\0', 6)
local marker = ended_by .. last .. string.format('%.0f', now_ms)

if moved and not token then
  if string.sub(moved, 1, 6) == nonce then return {9} end
  if string.sub(moved, 23) == '0' then
    -- It emptied itself (see save_if_changed). From this login or logout on,
    -- who still comes with its cookie is in flight.
    redis.call('HSET', session_key, 'moved',
      string.sub(moved, 1, 22) .. string.format('%.0f', now_ms))
    redis.call('PEXPIRE', session_key, marker_ms)
    return {2, 0}
  end
end
if mark and not token and not moved and redis.call('EXISTS', session_key) == 0 then
  redis.call('HSET', session_key, 'moved', marker)
  redis.call('PEXPIRE', session_key, marker_ms)
  return {0}
end
-- @include gone
-- @include moments
if digest ~= '' then
  -- @include token
end
if not expired then
  -- @include checks
end
if expired and not mark then
  redis.call('DEL', session_key)
  return {0, 1}
end
-- @include leave_marker
if expired then return {0, 1} end
-- @include publish
return {9}
