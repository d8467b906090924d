--[[
Picks what the scripts keep about a session from among all of its fields.

Needs: fields  {field, value, ...}
Gives: token, timeout, expires, deadline, first, moved
]]
for i = 1, #fields, 2 do
  local name = fields[i]
  if name == '@' then token = fields[i + 1]
  elseif name == 'timeout' then timeout = fields[i + 1]
  elseif name == 'expires' then expires = fields[i + 1]
  elseif name == 'deadline' then deadline = fields[i + 1]
  elseif name == 'first' then first = fields[i + 1]
  elseif name == 'moved' then moved = fields[i + 1]
  end
end
