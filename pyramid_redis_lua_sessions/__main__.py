"""``python -m pyramid_redis_lua_sessions``: the console script, where it is not on the PATH."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
