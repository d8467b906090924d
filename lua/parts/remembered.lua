--[[
Tells whether a call is one that was applied already and is repeated, as its reply was lost.

`saves` is a byte and up to 8 entries, the newest first: the call's id (6 bytes) and the second
of it, modulo 256. So it stays within hash-max-listpack-value. An id is a lane (3 bytes) and what
names a call in it (3): who makes a call in a lane has the answer to the call in it before, of which
no copy is on its way any more. Where calls in more than 8 lanes come within `remember_s`, full
lists of 8 move to `saves1` to `saves12`, in a ring; the byte counts them. So 96 calls are
remembered at least.

Needs: session_key, saves, save_id
Gives: recent    the entries in `saves`
       rings     how many lists have moved to the ring
       ring      these lists; nil where there are none, or it does not matter
       repeated  whether this call was applied before
]]
local recent = saves and string.sub(saves, 2) or ''
local rings = saves and string.byte(saves) or 0
local repeated = string.find(recent, save_id, 1, true) ~= nil
local ring
if rings > 0 and not repeated then
  ring = redis.call('HMGET', session_key, 'saves1', 'saves2', 'saves3', 'saves4', 'saves5',
    'saves6', 'saves7', 'saves8', 'saves9', 'saves10', 'saves11', 'saves12')
  for _, list in ipairs(ring) do
    if list and string.find(list, save_id, 1, true) then repeated = true end
  end
end
