--[[
Deletes the fields in ARGV from first_delete on, up to those that are to be set.

Needs: session_key, first_delete, first_set
]]
for i = first_delete, first_set - 1, 4000 do -- unpack takes about 8,000
  redis.call('HDEL', session_key, unpack(ARGV, i, math.min(i + 3999, first_set - 1)))
end
