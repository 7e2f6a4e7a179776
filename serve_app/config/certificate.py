"""Whether certificate and key of cluster.yaml can serve, asked before anything starts."""

from __future__ import annotations

from dataclasses import replace

from serve_app.access.tls import CertificateUnusable, Doubt, doubt_about
from serve_app.config.load import ClusterFile
from serve_app.config.problems import ConfigError, Problem, path_text


def check_certificate(cluster: ClusterFile, *, now_s: float) -> Doubt | None:
    """What clients hold, or soon will, against the certificate's dates, as a whole sentence. `now_s` is Unix time.

    Raises: ConfigError when a file is missing, is no PEM, or the key is not the certificate's.
    """
    tls = cluster.settings.access.tls
    if tls is None:
        return None
    location = (*cluster.args_location, "access", "certificate_file")
    try:
        doubt = doubt_about(tls, now_s=now_s)
    except CertificateUnusable as error:
        problem = Problem(
            path=path_text(location),
            what=f"and key_file cannot be used: {error}",
            expected="a PEM certificate chain and its private key",
            line=cluster.document.line_of(location),
        )
        raise ConfigError(cluster.path.name, [problem]) from error
    if doubt is None:
        return None
    message = f"`access.certificate_file` ({tls.certificate}): {doubt.message}. Renew it."
    return replace(doubt, message=message)
