--[[
Answers a call that was applied before the session ended, and is repeated since.

Needs: token, moved, saves, save_id, answer
]]
if moved and not token and saves and string.find(saves, save_id, 2, true) then return answer end
