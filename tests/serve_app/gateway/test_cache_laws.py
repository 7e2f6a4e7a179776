"""Laws of the cache, told of the whole gateway: whose answer anybody may be given."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.serve_app.access.makers import grant, key_store, made
from tests.serve_app.gateway.builders import backend, chat, table
from tests.serve_app.gateway.serving import stage

NOW_S = 1.0
TENANTS = ("ours", "theirs")
VERSIONS = ("old", "new")
FIELDS: tuple[dict[str, Any], ...] = ({}, {"seed": 1}, {"stream": True})

asked = st.lists(
    st.tuples(
        st.sampled_from(TENANTS),
        st.sampled_from(VERSIONS),
        st.sampled_from(("fast", "balanced")),
        st.integers(0, len(FIELDS) - 1),
        st.sampled_from(("", "", "no-cache", "no-store")),
    ),
    max_size=30,
)


class TestAnAnswer:
    @given(script=asked)
    @settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
    async def test_is_given_again_exactly_to_its_tenant_for_the_same_request_of_the_same_weights(
        self, script: list[tuple[str, str, str, int, str]]
    ) -> None:
        """A model of the cache beside the gateway: what it holds is known by all that an answer depends on."""
        async with stage("mini") as one:
            store = key_store()
            root, _ = made(store, now_s=NOW_S)
            keys = {tenant: made(store, grant(tenant=tenant), by=root.id, now_s=NOW_S)[1] for tenant in TENANTS}
            held: dict[tuple[str, ...], bytes] = {}
            for number, (tenant, version, mode, field, control) in enumerate(script):
                if not number or version != script[number - 1][1]:  # an update forgets decisions: none without need
                    serving = backend("mini", url=one.urls["mini"], version=version)
                    shown = dataclasses.replace(table(serving, version=number + 2), access=store.snapshot())
                    one.gateway.update(shown)
                headers = {"authorization": f"Bearer {keys[tenant].decode()}"}
                headers |= {"cache-control": control} if control else {}  # with it no decision is remembered
                answer = await one.chat(chat(mode, **FIELDS[field]), **headers)
                same = (tenant, version, mode, str(FIELDS[field]))
                is_hit = answer.headers["x-headroom-cache"] == "hit"
                assert is_hit == (same in held and not control), same
                if is_hit:
                    assert answer.content == held[same]
                elif control != "no-store":
                    held[same] = answer.content
