--[[
end_values: have Redis forget values at their end, where it can; and tell the time.

A value that ends says so within its seal, and a load leaves out what is past its end. This
only frees the memory: by HPEXPIREAT, on servers that have it (Redis 7.4, Valkey 9). It
travels behind the save, and does nothing to a field that another save has set since.

KEYS[1]    session_key  hash that holds the session; it need not exist
ARGV[1...] field, the first 16 bytes of its value, its end in ms since the epoch; ...

Returns: {status, ...}
  12 CLOCKED {12, now_ms, n}: n fields have an end of their own from now on
Writes: HPEXPIREAT, or nothing
]]
local session_key = KEYS[1]

local first_end = 1
local n = 0
for i = first_end, #ARGV, 3 do
  local value = redis.call('HGET', session_key, ARGV[i])
  if value and string.sub(value, 1, 16) == ARGV[i + 1] then
    local reply = redis.pcall('HPEXPIREAT', session_key, ARGV[i + 2], 'FIELDS', 1, ARGV[i])
    if not reply.err then n = n + 1 end
  end
end
-- @include clock
return {12, now_ms, n}
