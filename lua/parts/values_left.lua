--[[
Counts the values of a session. A piece of a value that is gone, as another call had put it
meanwhile, is none.

Needs: session_key, rings
       meta  what the scripts keep about the session, as read, and the key of its device
Gives: left
]]
local left = redis.call('HLEN', session_key) - math.min(rings, 12)
for i = 1, #meta do
  if meta[i] then left = left - 1 end
end
if left > 0 then
  for _, name in ipairs(redis.call('HKEYS', session_key)) do
    if string.byte(name) == 127 then left = left - 1 end
  end
end
