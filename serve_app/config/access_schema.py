"""What cluster.yaml may say of access. Keys never stand there: `headroom keys` makes them while the cluster runs."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.schema_types import FilePath
from serve_app.config.section import Section


class AccessSection(Section):
    certificate_file: FilePath | None = Field(
        None, description="PEM file of the certificate chain for HTTP and gRPC; null serves them unencrypted."
    )
    key_file: FilePath | None = Field(None, description="PEM file of the certificate's private key.")
    encrypted_elsewhere: bool = Field(
        False,
        description="A proxy before this cluster encrypts, so that it may listen beyond loopback without certificate.",
    )
