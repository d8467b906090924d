--[[
Sets the fields at the end of ARGV: field, value, ... The value of a flash message (field
'~...') that begins with 9 bytes of 255 is a new one: its place in the order takes their place,
the time in microseconds and which of these fields it is.

Needs: session_key, time, first_set
]]
local args, byte = ARGV, string.byte -- looked up once: a save may set hundreds
for i = first_set, #args, 2 do
  if byte(args[i]) == 126 and byte(args[i + 1]) == 255 then
    local place = struct.pack('>I7I2', time[1] * 1000000 + time[2], (i - first_set) / 2 % 65536)
    args[i + 1] = place .. string.sub(args[i + 1], 10)
  end
end
for i = first_set, #args, 4000 do -- unpack takes about 8,000
  redis.call('HSET', session_key, unpack(args, i, math.min(i + 3999, #args)))
end
