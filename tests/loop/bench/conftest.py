import resource

import pytest

from uproxy.bench.load.generate import is_native_built

NOT_BUILT = pytest.mark.skipif(not is_native_built(), reason="the C extension was not compiled")
BOTH = [pytest.param("native", marks=NOT_BUILT), "python"]


@pytest.fixture(params=BOTH)
def generator(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def same_descriptor_limit():
    """The generator raises it, here in the tests' own process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
