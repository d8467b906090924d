--[[
Reads the server's clock.

Gives: time    the server's clock: {seconds, microseconds}
       now_ms  ms since the epoch
]]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
