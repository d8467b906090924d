"""Sessions bound to a device: Device Bound Session Credentials (W3C webappsec-dbsc).

An opt-in leaf (``device_binding = on``), which needs the extra ``device``. The browser makes a
key pair whose private half never leaves the device, and signs a challenge every few minutes; a
cookie that was copied is worthless without.

:mod:`.proofs` verifies what browsers sign, :mod:`.binding` holds what follows from it for a
session, and :mod:`.views` talks to browsers.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DeviceBound"]


class DeviceBound:
    """View predicate ``device_bound``: only for a session that is bound, or only for others.

    It is there whether or not the feature is on, so that an application's views need not know.
    """

    def __init__(self, wanted: bool, config: Any) -> None:
        self.wanted = bool(wanted)

    def text(self) -> str:
        return f"device_bound = {self.wanted}"

    phash = text

    def __call__(self, context: Any, request: Any) -> bool:
        return bool(request.session.device_bound) is self.wanted
