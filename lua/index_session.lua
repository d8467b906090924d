--[[
index_session: put a session into the index of its owner.

The index is a sorted set of locators in the order in which they were added: the
score is the time, and above all that stand there already, also where the clock was
set back. A locator keeps its place, as a call may be repeated, and others may have
decided by the order meanwhile; but for that of an earlier login. It is not cut here: the caller ends the sessions
that are too many, and then removes them, so that a repeated call after a lost reply
tells of them again. Anything else that stands at its key is replaced.

Or it refuses a session that would be one too many, and adds nothing: of calls that
overlap, no more are let in than there is room for. What the caller found to have ended
makes room: it is named with the score that it had then, and stays where that is another
one by now, as it has come back.

It is called before the save that makes the session the owner's, so no session that
is an owner's is missing here, unless the index was evicted. Entries that lie further
ahead than a minute (the clock was set back, or somebody else wrote them) would be
young for ever: all that are ahead are brought to the present, in their order.

KEYS[1] index_key    sorted set of one owner's locators
ARGV[1] locator      string, to add
ARGV[2] most         integer, number of sessions that the index may hold
ARGV[3] absolute_ms  integer, absolute timeout, ms, after which the index itself
                     may end, as no session in it lives any more; 0 = none
ARGV[4] refuse       '1' = add it only if there is room; '0' = whatever there is
ARGV[5] since_us     integer, microseconds since the epoch: a place from before that, or one that
                     is over a minute old, is of an earlier login; 0 = it is the owner's
ARGV[6...]           locator, score, ...: sessions that have ended, to remove first

Returns: {status, ...}
  5 SAVED {5, surplus, settled_us, {locator, ...}} how many are too many, 0 = none;
          the score below which entries were added over a minute ago; and some of
          these, oldest first
  11 FULL {11, settled_us} there is no room
Writes: ZADD, ZREM, DEL, PEXPIRE, PERSIST
]]
local index_key = KEYS[1]
local locator = ARGV[1]
local most = tonumber(ARGV[2])
local absolute_ms = tonumber(ARGV[3])
local refuse = ARGV[4] == '1'
local since_us = tonumber(ARGV[5])
local first_ended = 6
-- A younger entry may belong to a login that is under way.
local SETTLED_US = 60000000
local SETTLED = 100 -- locators named at a time

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]

local last = redis.pcall('ZRANGE', index_key, -1, -1, 'WITHSCORES')
if last.err then
  if not string.find(last.err, 'WRONGTYPE', 1, true) then return last end
  redis.call('DEL', index_key)
  last = {}
end
local top = tonumber(last[2] or 0)
if top - now_us > SETTLED_US then
  local ahead = redis.call('ZRANGEBYSCORE', index_key,
    '(' .. string.format('%.0f', now_us), '+inf', 'WITHSCORES')
  top = now_us
  for i = 1, #ahead, 2 do
    if ahead[i + 1] ~= ahead[i - 1] then top = top + 1 end -- equal scores stay equal
    redis.call('ZADD', index_key, string.format('%.0f', top), ahead[i])
  end
end
for i = first_ended, #ARGV, 2 do
  local held = redis.call('ZSCORE', index_key, ARGV[i])
  if held and tonumber(held) == tonumber(ARGV[i + 1]) then
    redis.call('ZREM', index_key, ARGV[i])
  end
end
local place = redis.call('ZSCORE', index_key, locator)
if refuse and redis.call('ZCARD', index_key) - (place and 1 or 0) >= most then
  return {11, now_us - SETTLED_US}
end
if place and since_us > 0 and tonumber(place) < math.max(since_us, now_us - SETTLED_US) then
  -- It was the owner's before: that it is under way again must show.
  redis.call('ZREM', index_key, locator)
end
local score = math.max(now_us, top + 1)
redis.call('ZADD', index_key, 'NX', string.format('%.0f', score), locator)
if absolute_ms > 0 then
  -- A minute more: on a cluster the session may be on a node whose clock is late.
  local life = absolute_ms + 60000
  if redis.call('PTTL', index_key) < life then redis.call('PEXPIRE', index_key, life) end
else
  redis.call('PERSIST', index_key)
end

local surplus = redis.call('ZCARD', index_key) - most
local settled = redis.call('ZRANGEBYSCORE', index_key, '-inf',
  '(' .. string.format('%.0f', now_us - SETTLED_US), 'LIMIT', 0, SETTLED)
return {5, math.max(0, surplus), now_us - SETTLED_US, settled}
