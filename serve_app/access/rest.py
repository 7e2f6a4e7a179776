"""`/admin/keys` as pure pages over a store; errors in OpenAI's form.

POST   /admin/keys        make one; its text is in this answer and nowhere else
GET    /admin/keys        ?limit=&after=&tenant=            GET    /admin/keys/{id}
DELETE /admin/keys/{id}   revoke
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Final

from pydantic import ValidationError

from serve_app.access.keys import KeyRecord
from serve_app.access.store import KeyStore
from serve_app.access.wire import KeyRequest, KeysView, NewKeyView, key_view
from serve_app.api.control_routes import ControlAnswer, ControlAsked, error_answer, json_answer
from serve_app.api.errors import ApiError, Origin, invalid, method_not_allowed, not_found

PATH: Final = "/admin/keys"
MAX_PAGE: Final = 1000


def answer_keys(store: KeyStore, asked: ControlAsked, *, now_s: float) -> ControlAnswer:
    """`asked.path` begins with `/admin/keys`; `asked.key_id` is who asks. `now_s` is Unix time."""
    answer = _answered(store, asked, now_s)
    return error_answer(replace(answer, origin=Origin.CONTROLLER)) if isinstance(answer, ApiError) else answer


def _answered(store: KeyStore, asked: ControlAsked, now_s: float) -> ControlAnswer | ApiError:
    key_id = asked.path.removeprefix(PATH).removeprefix("/")
    match asked.method, bool(key_id):
        case "GET", False:
            return _listed(store, asked, now_s)
        case "POST", False:
            return _made(store, asked, now_s)
        case "GET", True:
            return _shown(_visible(store, asked, key_id), key_id, now_s)
        case "DELETE", True:
            if _visible(store, asked, key_id) is None:
                return _shown(None, key_id, now_s)
            revoked = store.revoke(key_id, by=asked.key_id, now_s=now_s)
            return _refused(revoked) if isinstance(revoked, str) else _shown(revoked, key_id, now_s)
    return method_not_allowed(asked.method, asked.path, "GET, DELETE" if key_id else "GET, POST")


def _tenant(store: KeyStore, asked: ControlAsked) -> str | None:
    """The one tenant whose keys the caller sees; None sees all."""
    caller = store.record(asked.key_id)
    return None if caller is None else caller.grant.tenant


def _visible(store: KeyStore, asked: ControlAsked, key_id: str) -> KeyRecord | None:
    record, tenant = store.record(key_id), _tenant(store, asked)
    return record if record is not None and tenant in (None, record.grant.tenant) else None


def _made(store: KeyStore, asked: ControlAsked, now_s: float) -> ControlAnswer | ApiError:
    try:
        wanted = KeyRequest.model_validate_json(asked.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "body"
        expected = f"Expected {', '.join(f'`{name}`' for name in KeyRequest.model_fields)}; `roles` at least."
        return invalid(f"{place}: {first['msg']}. {expected}", param=place)
    made = store.create(wanted.grant(now_s=now_s), note=wanted.note, made_by=asked.key_id, now_s=now_s)
    if isinstance(made, str):
        return _refused(made)
    record, text = made
    view = NewKeyView(**key_view(record, now_s=now_s).model_dump(), key=text)
    return json_answer(view.model_dump(), HTTPStatus.CREATED)


def _listed(store: KeyStore, asked: ControlAsked, now_s: float) -> ControlAnswer | ApiError:
    unknown = sorted(set(asked.query) - {"limit", "after", "tenant"})
    if unknown:
        return invalid(f"Unknown filter '{unknown[0][:64]}'. Known: after, limit, tenant.", param=unknown[0][:64])
    limit = asked.query.get("limit", "100")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= MAX_PAGE):
        return invalid(f"`limit` must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    tenant = _tenant(store, asked) or asked.query.get("tenant")
    records = store.page(limit=int(limit), after=asked.query.get("after", ""), tenant=tenant)
    views = tuple(key_view(record, now_s=now_s) for record in records)
    return json_answer(KeysView(keys=views, next=views[-1].id if len(views) == int(limit) else None).model_dump())


def _shown(record: KeyRecord | None, key_id: str, now_s: float) -> ControlAnswer | ApiError:
    if record is None:
        return not_found(f"There is no key '{key_id[:32]}'.", param="id", code="unknown_key")
    return json_answer(key_view(record, now_s=now_s).model_dump())


def _refused(sentence: str) -> ApiError:
    return replace(invalid(sentence, code="key_refused"), status=HTTPStatus.FORBIDDEN, type="permission_error")
