--[[
Remembers this call, and forgets that of its lane before it: see `remembered`.

Calls of up to 10 seconds ahead of the clock count as of now, since it may step back a little:
an age is from -10 to 245.

Needs: session_key, save_id, recent, rings, ring, time
       remember_s  below 246
Gives: saves  to be written by the caller
]]
local moment = time[1] % 256
local last = #recent
while last > 0 and (moment - string.byte(recent, last) + 10) % 256 - 10 > remember_s do
  last = last - 7
end
recent = string.sub(recent, 1, math.max(last, 0))
if rings > 0 then
  local newest = ring[(rings - 1) % 12 + 1]
  local second = newest and string.byte(newest, 7)
  if recent == '' or not second or (moment - second + 10) % 256 - 10 > remember_s then
    redis.call('HDEL', session_key, 'saves1', 'saves2', 'saves3', 'saves4', 'saves5', 'saves6',
      'saves7', 'saves8', 'saves9', 'saves10', 'saves11', 'saves12')
    rings = 0
  end
end
local lane = string.sub(save_id, 1, 3)
for i = 1, #recent, 7 do
  if string.sub(recent, i, i + 2) == lane then
    recent = string.sub(recent, 1, i - 1) .. string.sub(recent, i + 7)
    break
  end
end
if #recent >= 56 then
  redis.call('HSET', session_key, 'saves' .. (rings % 12 + 1), recent)
  rings = rings < 251 and rings + 1 or 12
  recent = ''
end
saves = string.char(rings) .. save_id .. string.char(moment) .. recent
