from tests.netns.e2e.conftest import greeter, lab, stage, way
from tests.netns.e2e.test_life import before

__all__ = ["before", "greeter", "lab", "stage", "way"]
