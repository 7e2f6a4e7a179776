"""Asks a traced gateway without a key, then as two tenants, the second twice; spans go where the environment says."""

from __future__ import annotations

import asyncio

from tests.serve_app.gateway.builders import chat
from tests.serve_app.gateway.serving import stage
from tests.serve_app.gateway.test_access import Closed, bearer
from tracing import names, setup


async def main() -> None:
    setup.configure(names.GATEWAY)
    async with stage("mini") as one:
        await one.chat(chat())
        keys = Closed(one)
        for tenant in ("ours", "theirs", "theirs"):
            assert (await one.chat(chat(), **bearer(keys.key(tenant=tenant)))).status_code == 200
    setup.flush()


if __name__ == "__main__":
    asyncio.run(main())
