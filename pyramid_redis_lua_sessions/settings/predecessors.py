"""What ``pyramid_session_redis`` and ``pyramid_redis_sessions`` have their users write.

Their other names for a setting stand in its row of the table.
"""

from __future__ import annotations

from typing import Any

#: Libraries whose sessions can be taken over.
MIGRATE_FROM = ("pyramid_session_redis", "pyramid_redis_sessions")

#: How the predecessors' documentation and their users name the pickle functions.
PICKLE_SPELLINGS = frozenset(
    f"{module}{separator}{function}"
    for module in ("pickle", "cPickle", "_pickle")
    for separator in ".:"
    for function in ("dumps", "loads")
)

#: The names of the positional arguments of ``RedisSessionFactory``, in the
#: order in which ``pyramid_session_redis`` 1.8.1 takes them.
POSITIONAL = (
    "secret",
    "timeout",
    "cookie_name",
    "cookie_max_age",
    "cookie_path",
    "cookie_domain",
    "cookie_secure",
    "cookie_httponly",
    "cookie_expires",
    "cookie_comment",
    "cookie_samesite",
    "cookie_on_exception",
    "redis_url",
    "redis_host",
    "redis_port",
    "redis_db",
    "redis_password",
    "redis_client_callable",
    "serialize",
    "deserialize",
    "id_generator",
    "set_redis_ttl",
    "set_redis_ttl_readheavy",
    "detect_changes",
    "deserialized_fails_new",
    "func_check_response_allow_cookies",
    "func_invalid_logger",
    "timeout_trigger",
    "python_expires",
    "cookie_signer",
    "redis_socket_timeout",
    "redis_connection_pool",
    "redis_encoding",
    "redis_encoding_errors",
    "redis_unix_socket_path",
    "invalidate_empty_session",
)


def not_given(value: Any) -> bool:
    """Tell whether a value is empty: the default, where a setting gives it no other meaning."""
    return value is None or value in ("", "None")
