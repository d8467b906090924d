--[[
Tells those who watch the session that it has ended. The channel has the name of the key, so
that it is in the same slot. Since 7.0 a cluster does not carry it to all its nodes.

That nobody can be told, or may be, does not keep the session alive: no error comes of it.

Needs: session_key
       message  what they are told; '' = nobody is
]]
if message ~= '' then
  local told = redis.pcall('SPUBLISH', session_key, message)
  if type(told) == 'table' then redis.pcall('PUBLISH', session_key, message) end
end
