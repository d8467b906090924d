--[[
Reads the field `@`: the digest of the verifier (16 bytes), the start of the session's life
(6 bytes: ms, big-endian), and when the token was put in place, if that is another moment.
A byte more is a mark: '+', the session holds what is told from the time, and its loads tell it;
or '-', it has, or had, one of the fields `timeout`, `deadline`, `expires` and `first`. Who finds
no mark need not look for these.

Needs: token
Gives: start_ms, placed_ms  nil where somebody spoilt it
]]
local size = #token - #token % 2
local start_ms = (size == 22 or size == 28) and struct.unpack('>I6', token, 17) or nil
local placed_ms = size == 28 and struct.unpack('>I6', token, 23) or start_ms
