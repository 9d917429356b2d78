"""Runs every test that asks for `store` on every implementation."""

import pytest

from tests.support import stores


@pytest.fixture(params=stores.parameters())
def store_kind(request):
    kind = request.param
    expected = stores.EXPECTED_FAILURES.get(kind, {})
    whole = request.node.name.replace(f"[{kind}-", "[")  # one case of a test: "test_x[line\\nfeed]"
    reason = expected.get(request.node.originalname) or expected.get(whole)
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    return kind


@pytest.fixture
async def store(store_kind):
    async with stores.STORES[store_kind]() as opened:
        yield opened
