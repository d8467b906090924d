--[[
Ends the session: of its hash only the marker stays, and `saves`, by which a save that is
repeated after the end is recognised.

The TTL first: a script that has written is not refused memory for the rest. And the key never
vanishes in between: in a slot that is leaving the node, it could not come back.

Needs: session_key, marker, marker_ms
]]
redis.call('PEXPIRE', session_key, marker_ms)
redis.call('HSET', session_key, 'moved', marker)
local held = redis.call('HKEYS', session_key)
for i = 1, #held, 4000 do -- unpack takes about 8,000
  local ended = {}
  for j = i, math.min(i + 3999, #held) do
    if held[j] ~= 'moved' and held[j] ~= 'saves' then ended[#ended + 1] = held[j] end
  end
  if #ended > 0 then redis.call('HDEL', session_key, unpack(ended)) end
end
