"""`/admin/keys` as JSON: what is asked and what is answered. A key's text appears once, in the answer that makes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from serve_app.access.keys import MAX_MODELS, Grant, KeyRecord, Role
from serve_app.api.wire import WireModel

TENANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_MOST = 10**12
Model = Annotated[str, Field(min_length=1, max_length=64)]


class KeyRequest(BaseModel):
    """POST /admin/keys. What is left out bounds nothing, but only where the maker is not bound either."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    roles: frozenset[Role] = Field(min_length=1)
    tenant: str | None = Field(None, pattern=TENANT_PATTERN)
    models: frozenset[Model] | None = Field(None, min_length=1, max_length=MAX_MODELS)
    requests_per_min: int | None = Field(None, ge=1, le=_MOST, strict=True)
    tokens_per_min: int | None = Field(None, ge=1, le=_MOST, strict=True)
    lifetime_s: float | None = Field(None, gt=0, le=10 * 366 * 86_400.0)
    note: str = Field("", max_length=128)

    def grant(self, *, now_s: float) -> Grant:
        return Grant(
            roles=self.roles,
            tenant=self.tenant,
            models=self.models,
            requests_per_min=self.requests_per_min,
            tokens_per_min=self.tokens_per_min,
            expires_at_s=None if self.lifetime_s is None else now_s + self.lifetime_s,
        )


class KeyView(WireModel):
    """Times are Unix seconds. `state` is valid, expired or revoked."""

    id: str
    state: str
    roles: tuple[str, ...]
    tenant: str | None
    models: tuple[str, ...] | None
    requests_per_min: int | None
    tokens_per_min: int | None
    expires_at_s: float | None
    note: str
    made_by: str
    created_at_s: float
    revoked_at_s: float | None


class NewKeyView(KeyView):
    key: str = Field(repr=False)
    """The key itself, shown this once."""


class KeysView(WireModel):
    """`next` is the `after` of the next page, None at the end."""

    keys: tuple[KeyView, ...]
    next: str | None


def key_view(record: KeyRecord, *, now_s: float) -> KeyView:
    grant = record.grant
    unrevoked = "valid" if record.is_valid(now_s=now_s) else "expired"
    return KeyView(
        id=record.id,
        state=unrevoked if record.revoked_at_s is None else "revoked",
        roles=tuple(sorted(role.value for role in grant.roles)),
        tenant=grant.tenant,
        models=None if grant.models is None else tuple(sorted(grant.models)),
        requests_per_min=grant.requests_per_min,
        tokens_per_min=grant.tokens_per_min,
        expires_at_s=grant.expires_at_s,
        note=record.note,
        made_by=record.made_by,
        created_at_s=record.created_at_s,
        revoked_at_s=record.revoked_at_s,
    )
