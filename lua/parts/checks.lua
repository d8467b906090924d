--[[
Answers CONFLICT where what a request read is no longer so.

Needs: session_key
       names  digest of the set of fields that was read; '' = not read
       first_check, last_check  in between, ARGV holds field, check, ...: '' = it was
              absent, '+' = present, else the SHA1 of its value
]]
if names ~= '' then
  -- The digest does not depend on order: a count, and a sum of 48-bit hashes.
  local count, sum = 0, 0
  for _, name in ipairs(redis.call('HKEYS', session_key)) do
    local kind = string.sub(name, 1, 1)
    if kind == '.' or kind == '#' or kind == '~' then
      count = count + 1
      sum = (sum + tonumber(string.sub(redis.sha1hex(name), 1, 12), 16)) % 281474976710656
    end
  end
  if names ~= string.format('%d:%.0f', count, sum) then return {6} end
end
for i = first_check, last_check, 2 do
  local value = redis.call('HGET', session_key, ARGV[i])
  local check = ARGV[i + 1]
  if check == '' and value
    or check == '+' and not value
    or #check > 1 and (not value or redis.sha1hex(value) ~= check) then
    return {6}
  end
end
