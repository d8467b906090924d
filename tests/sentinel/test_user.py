"""The user that the documentation gives the application at the sentinels."""

from __future__ import annotations

import re
from typing import Any

from redis.sentinel import Sentinel

from tests.support.browser import make_browser
from tests.support.least_privilege import PAGE
from tests.support.topology import SERVICE, Sentinels


def test_client_of_redis_py_that_the_application_brings(sentinels: Sentinels, clean: None) -> None:
    """Without anything of ours."""
    hosts = [("127.0.0.1", sentinel.port) for sentinel in sentinels.sentinels]
    password = sentinels.password
    asking: Any = Sentinel(hosts, sentinel_kwargs={"password": password} if password else {})
    client = asking.master_for(SERVICE)
    browser = make_browser(
        "redis://localhost:1/0", redis_client_callable=lambda request, **options: client
    )
    browser.use(lambda session: session.__setitem__("name", "value"))
    client.script_flush()
    browser.use(lambda session: setattr(session, "owner", "ada"))
    assert browser.use(lambda session: (session.owner, dict(session))) == (
        "ada",
        {"name": "value"},
    )
    client.close()


def test_user_of_the_documentation_finds_the_primary(sentinels: Sentinels, clean: None) -> None:
    (rule,) = re.findall(r"Sentinels .*\s+own: theirs needs ``(.*?)``", PAGE.read_text("utf-8"))
    for sentinel in sentinels.sentinels:
        sentinel.ask("ACL", "SETUSER", "app", "on", ">pw", "-@all", *rule.split())
    url = sentinels.url.partition("?")[0]
    browser = make_browser(f"{url}?sentinel_username=app&sentinel_password=pw")
    browser.use(lambda session: session.__setitem__("name", "value"))
    assert browser.use(dict) == {"name": "value"}
