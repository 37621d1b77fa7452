"""Greets with a request to paste once the server beside it is ready. Knows no server's inside.

`python -m service.hello PORT` refuses a port that somebody listens on. With the process id of its
parent behind the port it greets, and ends by itself: after printing, or when the parent has gone.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.error
import urllib.request

from service.base.config import Settings

POLL_SECONDS = 0.2
REQUEST = """\
curl -s http://127.0.0.1:{port}/v1/rank {key}-H 'Content-Type: application/json' -d '{{
  "context": "Headline: Staff nurse on a surgical ward. Skills: monitoring, patient assessment.",
  "candidates": [
    {{"id": "roofer", "text": "Roofer. Duties: inspect roofs, estimate materials, lay shingles."}},
    {{"id": "nurse", "text": "Critical care nurse. Duties: assess patients, give medication."}},
    {{"id": "editor", "text": "Film editor. Duties: cut and assemble scenes, review footage."}}
  ]
}}'"""


def is_ready(port: int) -> bool:
    """Whether /readyz answers 200: Redis is up and an engine has loaded its model."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def is_taken(port: int) -> bool:
    """Whether somebody listens there already."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def greet(port: int, parent: int) -> None:
    """Waits as long as the parent lives, then prints."""
    while not is_ready(port):
        time.sleep(POLL_SECONDS)
        if os.getppid() != parent:
            return
    print(greeting(port, Settings.from_environment().tenants_file), flush=True)


def greeting(port: int, tenants_file: str) -> str:
    """What to try; where there are tenants a key is sent, which only they know."""
    key = "-H 'Authorization: Bearer KEY' " if tenants_file else ""
    whose = f", with the key of a tenant in {tenants_file} for KEY" if tenants_file else ""
    return f"\nfairslate is ready. Try{whose}:\n\n{REQUEST.format(port=port, key=key)}\n"


def main() -> None:
    """The command line."""
    port, *parent = map(int, sys.argv[1:])
    if parent:
        greet(port, parent[0])
    elif is_taken(port):
        sys.exit(f"port {port} is in use; stop what listens there or pass PORT={port + 1}")


if __name__ == "__main__":
    main()
