"""The user that the documentation gives the application at the sentinels."""

from __future__ import annotations

import re

from tests.support.browser import make_browser
from tests.support.least_privilege import PAGE
from tests.support.topology import Sentinels


def test_user_of_the_documentation_finds_the_primary(sentinels: Sentinels, clean: None) -> None:
    (rule,) = re.findall(
        r"user of the sentinels themselves\s+needs ``(.*?)``", PAGE.read_text("utf-8")
    )
    for sentinel in sentinels.sentinels:
        sentinel.ask("ACL", "SETUSER", "app", "on", ">pw", "-@all", *rule.split())
    url = sentinels.url.partition("?")[0]
    browser = make_browser(f"{url}?sentinel_username=app&sentinel_password=pw")
    browser.use(lambda session: session.__setitem__("name", "value"))
    assert browser.use(dict) == {"name": "value"}
