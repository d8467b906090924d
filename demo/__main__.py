"""Serve the demo on an embedded Redis until Ctrl-C or SIGTERM.

With ``DEVICES=1`` in the environment, over https, and sessions are bound to the device.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import waitress.server
from webob import Request

from pyramid_redis_lua_sessions.testing import RedisServer, RedisServerError

from .app import make_app
from .tls import make_certificate, make_tls_server

HOST = "127.0.0.1"
USUAL_PORT = 6543

#: More than a browser has connections to one server; and each open page of somebody who is
#: logged in holds one.
THREADS = 64

#: What makes a browser bind sessions here.
TRUST = """
A login binds the session to your device, if the browser can: Chrome on Windows with the TPM,
Chromium on Linux with keys in software. It has to trust this certificate first, which is good
for localhost alone, for a week, and is made anew at each start:

  {authority}

On Linux, with a browser of its own that you can remove after (certutil: libnss3-tools):

  export HOME=$(mktemp -d); mkdir -p $HOME/.pki/nssdb
  certutil -d sql:$HOME/.pki/nssdb -N --empty-password
  certutil -d sql:$HOME/.pki/nssdb -A -n demo -t C,, -i {authority}
  chromium --enable-features=DeviceBoundSessions,\
EnableBoundSessionCredentialsSoftwareKeysForManualTesting

On Windows: certutil -user -addstore Root <file>, and certutil -user -delstore Root "Demo of
redis-lua-sessions" when you are done. Then log in, load the page again, and copy the session
cookie into another browser.
"""


def main() -> int:
    wanted = os.environ.get("PORT", "")
    if wanted and not (wanted.isdecimal() and int(wanted) < 65536):
        print(f"demo: PORT={wanted!r} is not a port", file=sys.stderr)
        return 2
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        with RedisServer() as redis_server:
            if os.environ.get("DEVICES", "") not in ("", "0"):
                serve_over_tls(redis_server.url, wanted)
            else:
                app = make_app(redis_server.url)
                warm_up(app)
                create = functools.partial(waitress.server.create_server, app, threads=THREADS)
                server = listen(create, wanted)
                address = f"http://{HOST}:{server.effective_port}/"
                print(f"Demo:  {address}  (Ctrl-C ends it)", flush=True)
                server.run()  # returns when it is interrupted
    except KeyboardInterrupt:
        pass  # during the start
    except (OSError, RedisServerError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    print("Demo:  stopped, and its Redis with it")
    return 0


def warm_up(app: Any) -> None:
    """Have the first visitor's pages cost what any others cost: templates are compiled, Redis is
    connected to, a session was made and one was loaded."""
    made = Request.blank("/").get_response(app)
    cookies = [cookie.partition(";")[0] for cookie in made.headers.getall("Set-Cookie")]
    Request.blank("/", headers={"Cookie": "; ".join(cookies)}).get_response(app)


def serve_over_tls(redis_url: str, wanted: str) -> None:
    """Serve it so that browsers bind sessions, with a certificate that is thrown away after."""
    app = make_app(redis_url, device_binding="on", profile="asvs-l2")
    warm_up(app)
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        certificate = make_certificate(Path(directory))
        server = listen(functools.partial(make_tls_server, app, certificate), wanted)
        certificate.chain.unlink()  # with the key, which the server has read
        print(f"Demo:  https://localhost:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        print(TRUST.format(authority=certificate.authority), flush=True)
        server.serve_forever()


def listen(create: Callable[..., Any], wanted: str) -> Any:
    """Listen on the wanted port; without a wish on the usual one, or else on any."""
    if wanted:
        return create(host=HOST, port=int(wanted))
    try:
        return create(host=HOST, port=USUAL_PORT)
    except OSError:
        return create(host=HOST, port=0)


def stop(signum: int, frame: Any) -> None:
    # A second Ctrl-C must not break off the clean end that the first one began.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
