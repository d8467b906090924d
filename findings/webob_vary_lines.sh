#!/bin/sh
# WebOb reads only the first of several Vary header lines, and an assignment drops the others.
#
# RFC 9110, 5.3: several lines of one name mean what one line with all their values means. Where a
# session or a middleware appends a line of its own, the usual way to add a value,
# `response.vary = (response.vary or ()) + ("Origin",)`, silently removes it, and a shared cache
# then serves one user's page to another.
#
# Exit status 0: still so. 1: WebOb changed. Needs Python 3, and pip's usual index.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" install --quiet --disable-pip-version-check webob==1.8.11
"$directory/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

from webob import Response

print("WebOb", version("webob"))
response = Response(headerlist=[("Vary", "Accept-Encoding"), ("Vary", "Cookie")])
read = response.vary
response.vary = (response.vary or ()) + ("Origin",)
left = ", ".join(response.headers.getall("Vary"))

print("reading   expected:", ("Accept-Encoding", "Cookie"), "seen:", read)
print("adding    expected: Accept-Encoding, Cookie, Origin  seen:", left)
sys.exit(not (read == ("Accept-Encoding",) and left == "Accept-Encoding, Origin"))
PYTHON
