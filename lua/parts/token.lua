--[[
Answers MOVED where the session's token is not the caller's, and tells whether the session is
an owner's.

Needs: session_key, token, placed_ms, digest, now_ms
]]
if string.sub(token, 1, 16) ~= digest then
  return {2, now_ms - (placed_ms or 0), 1 + redis.call('HEXISTS', session_key, 'owner')}
end
