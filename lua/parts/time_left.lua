--[[
Computes the life that is left to a session, and changes nothing.

Needs: session_key, now_ms, timeout_ms, absolute_ms
       start_ms  of its life, nil where somebody spoilt it
       timeout, deadline, expires, first  fields as stored
Gives: remaining  ms; -1 = never ends, 0 = it has reached its end
       idle       the idle timeout that ends it then, ms; 0 = something else ends it
                  sooner, or it never ends
]]
local remaining = redis.call('PTTL', session_key) -- -1 = no TTL
if expires then remaining = math.max(0, (tonumber(expires) or 0) - now_ms) end
local fixed = math.huge -- life up to the end that no activity moves
if absolute_ms > 0 then fixed = (start_ms or 0) + absolute_ms - now_ms end
if deadline then fixed = math.min(fixed, (tonumber(deadline) or 0) - now_ms) end
if fixed <= 0 then remaining = 0
-- The end may have moved since it was last written, as absolute_timeout was lowered.
elseif fixed < math.huge and (remaining < 0 or remaining > fixed) then remaining = fixed
end
local idle = tonumber(timeout) or timeout_ms
-- Clock reads within one call may lie a millisecond apart.
if first or remaining < 0 or remaining >= fixed - 2 then idle = 0 end
