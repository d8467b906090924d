--[[
Makes the field `@` (see `moments`) with a digest that is put in place now.

Needs: digest, start_ms, now_ms
       mark  '+', or '' for none
Gives: token
]]
token = digest .. struct.pack('>I6', start_ms)
if start_ms ~= now_ms then token = token .. struct.pack('>I6', now_ms) end
token = token .. mark
