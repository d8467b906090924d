--[[
Remembers this call: see `remembered`.

Calls of up to 10 seconds ahead of the clock count as of now, since it may step back a little:
an age is from -10 to 245.

Needs: session_key, save_id, recent, rings, time
       remember_s  below 246
Gives: saves  to be written by the caller
]]
local moment = time[1] % 256
local last = #recent
while last > 0 and (moment - string.byte(recent, last) + 10) % 256 - 10 > remember_s do
  last = last - 7
end
recent = string.sub(recent, 1, math.max(last, 0))
if rings > 0 and recent == '' then
  redis.call('HDEL', session_key, 'saves1', 'saves2', 'saves3', 'saves4', 'saves5', 'saves6',
    'saves7', 'saves8', 'saves9', 'saves10', 'saves11', 'saves12')
  rings = 0
elseif #recent >= 56 then
  redis.call('HSET', session_key, 'saves' .. (rings % 12 + 1), recent)
  rings = rings < 251 and rings + 1 or 12
  recent = ''
end
saves = string.char(rings) .. save_id .. string.char(moment) .. recent
