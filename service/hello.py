"""Prints a ready-to-paste request once the server beside it is ready. Knows nothing of the server.

`python -m service.hello PORT PARENT` ends by itself: after printing, or when the process PARENT,
which started it, has gone.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request

POLL_SECONDS = 0.2
REQUEST = """\
curl -s http://127.0.0.1:{port}/v1/rank -H 'Content-Type: application/json' -d '{{
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


def main() -> None:
    """Waits as long as the parent lives, then prints."""
    port, parent = int(sys.argv[1]), int(sys.argv[2])
    while not is_ready(port):
        time.sleep(POLL_SECONDS)
        if os.getppid() != parent:
            return
    print(f"\nfairslate is ready. Try:\n\n{REQUEST.format(port=port)}\n", flush=True)


if __name__ == "__main__":
    main()
