--[[
Answers MOVED where the session's token is not the caller's, and tells whether the session is
an owner's. `token` is the digest of the verifier (16 bytes) and the moment, in ms, at which it
was put in place.

Needs: session_key, token, digest, now_ms
]]
if string.sub(token or '', 1, 16) ~= digest then
  local replaced_ms = now_ms - (tonumber(string.sub(token or '', 17)) or 0)
  return {2, replaced_ms, 1 + redis.call('HEXISTS', session_key, 'owner')}
end
