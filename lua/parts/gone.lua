--[[
Answers a call for a session that does not live: GONE or MOVED. A session exists if and
only if its field `@` does, its token. `moved` is the nonce of the call that ended it (6 bytes),
its last digest (16) and the moment in ms; 0 = it emptied itself, and nobody is in flight.

Needs: token, moved, now_ms
]]
if not token then
  if not moved then return {0} end
  return {2, now_ms - (tonumber(string.sub(moved, 23)) or 0)}
end
