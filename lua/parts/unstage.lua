--[[
Ends this call's own stage, and leaves what else is staged: see `staged`.

Needs: session_key, staged, others
       stage_id  '' = none
]]
if stage_id ~= '' and staged then
  if others ~= '' then redis.call('HSET', session_key, 'staged', others)
  else redis.call('HDEL', session_key, 'staged')
  end
end
