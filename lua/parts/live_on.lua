--[[
Writes a life that was computed by `life`, as TTL or as the field `expires`.

Needs: session_key, now_ms, life, use_ttl, token, expires, first, new_timeout, new_deadline
       timeout, deadline
Gives: remaining  ms; -1 = never ends, 0 = it has just ended
]]
if new_timeout then
  if timeout then redis.call('HSET', session_key, 'timeout', timeout)
  else redis.call('HDEL', session_key, 'timeout')
  end
end
if new_deadline then
  if deadline then redis.call('HSET', session_key, 'deadline', deadline)
  else redis.call('HDEL', session_key, 'deadline')
  end
end
if #token % 2 == 0 and life > 0 and (timeout or deadline or first or not use_ttl) then
  redis.call('HSET', session_key, '@', token .. '-')
end
local remaining = life
if life <= 0 then
  redis.call('DEL', session_key) -- adjust_session_expires named a moment that has passed
  remaining = 0
elseif life == math.huge then
  redis.call('PERSIST', session_key)
  if expires then redis.call('HDEL', session_key, 'expires') end
  remaining = -1
elseif use_ttl then
  redis.call('PEXPIRE', session_key, string.format('%.0f', life))
  if expires then redis.call('HDEL', session_key, 'expires') end
else
  redis.call('HSET', session_key, 'expires', string.format('%.0f', now_ms + life))
  redis.call('PERSIST', session_key)
end
