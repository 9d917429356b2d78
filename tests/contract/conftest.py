"""Runs every test that asks for `store` on every implementation."""

import pytest

from tests.support import stores


@pytest.fixture(params=stores.parameters())
def store_kind(request):
    kind = request.param
    reason = stores.EXPECTED_FAILURES.get(kind, {}).get(request.node.originalname)
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    return kind


@pytest.fixture
async def store(store_kind):
    async with stores.STORES[store_kind]() as opened:
        yield opened
