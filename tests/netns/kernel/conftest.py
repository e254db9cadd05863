from tests.netns.e2e.conftest import greeter, lab, stage, way

__all__ = ["greeter", "lab", "stage", "way"]
