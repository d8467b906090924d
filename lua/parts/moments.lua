--[[
Reads the field `@`: the digest of the verifier (16 bytes), the start of the session's life
(6 bytes: ms, big-endian), and when the token was put in place, if that is another moment.

Needs: token
Gives: start_ms, placed_ms  nil where somebody spoilt it
]]
local start_ms = (#token == 22 or #token == 28) and struct.unpack('>I6', token, 17) or nil
local placed_ms = #token == 28 and struct.unpack('>I6', token, 23) or start_ms
