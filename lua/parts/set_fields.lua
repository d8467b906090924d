--[[
Sets the fields at the end of ARGV: field, value, ... The value of a flash message (field
'~...') that begins with 9 bytes of 255 is a new one: its place in the order takes their place,
the time in microseconds and which of these fields it is.

Needs: session_key, time, first_set
]]
for i = first_set, #ARGV, 2 do
  if string.byte(ARGV[i]) == 126 and string.byte(ARGV[i + 1]) == 255 then
    local place = struct.pack('>I7I2', time[1] * 1000000 + time[2], (i - first_set) / 2 % 65536)
    ARGV[i + 1] = place .. string.sub(ARGV[i + 1], 10)
  end
end
for i = first_set, #ARGV, 4000 do -- unpack takes about 8,000
  redis.call('HSET', session_key, unpack(ARGV, i, math.min(i + 3999, #ARGV)))
end
