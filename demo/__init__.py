"""A small application that shows ``pyramid_redis_lua_sessions``: ``python -m demo``."""
