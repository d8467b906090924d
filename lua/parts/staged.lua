--[[
Answers BUSY where another call has staged what clashes with this one, and drops what lapsed.

`staged` is `id:until_ms:reads:writes;` for each staged save: 8 hexadecimal digits of the SHA1
of each field; `*` = every field. Two clash where one writes what the other reads or writes.
What would hold for longer than a minute is none of ours, or the clock was set back.

Needs: staged, now_ms, reads, writes
       stage_id  of this call's own stage; '' = none
Gives: others  what else stays staged
]]
local others = ''
local from, to = 1, string.find(staged or '', ';', 1, true)
while to do -- not gmatch, which takes quadratic time where somebody wrote a long text here
  local entry = string.sub(staged, from, to)
  local id, ends, their_reads, their_writes = string.match(entry,
    '^([%w_-]+):(%d+):([%x*]*):([%x*]*);$')
  local left = tonumber(ends or 0) - now_ms
  if id and id ~= stage_id and left > 0 and left <= 60000 then
    local theirs = their_reads .. their_writes
    local clash = writes == '*' and theirs ~= '' or their_writes == '*' and reads .. writes ~= ''
      or writes ~= '' and their_reads == '*' or their_writes ~= '' and reads == '*'
    for hash in string.gmatch(writes, '%x%x%x%x%x%x%x%x') do
      clash = clash or string.find(theirs, hash, 1, true)
    end
    for hash in string.gmatch(reads, '%x%x%x%x%x%x%x%x') do
      clash = clash or string.find(their_writes, hash, 1, true)
    end
    if clash then return {10} end
    others = others .. entry
  end
  from, to = to + 1, string.find(staged, ';', to + 1, true)
end
