--[[
Computes the life that is left from now on, and ends a session that is past its end.

Needs: session_key, now_ms, timeout_ms, absolute_ms
       start_ms  of its life, nil where somebody spoilt it
       timeout, deadline, expires, first  fields as stored
       new_timeout, new_deadline  numbers, or nil = unchanged; a timeout below 0 = the default
Gives: life  ms, math.huge = it never ends; 0 or less: new_deadline has passed
       timeout, deadline  as they are from now on
]]
if new_timeout then timeout = new_timeout >= 0 and string.format('%.0f', new_timeout) end
local idle = tonumber(timeout or nil) or timeout_ms
local life = math.huge
if idle > 0 then life = idle end
if first then life = math.min(life, tonumber(first) or life) end
if absolute_ms > 0 then
  life = math.min(life, (start_ms or 0) + absolute_ms - now_ms)
end
if life <= 0 or (deadline and (tonumber(deadline) or 0) <= now_ms)
  or (expires and (tonumber(expires) or 0) <= now_ms) then
  redis.call('DEL', session_key)
  return {0, 1}
end
if new_deadline then
  deadline = new_deadline > 0 and string.format('%.0f', new_deadline) or false
end
if deadline then life = math.min(life, (tonumber(deadline) or 0) - now_ms) end
if life < math.huge then life = math.min(life, 3200000000000) end -- a century: PEXPIRE's range
