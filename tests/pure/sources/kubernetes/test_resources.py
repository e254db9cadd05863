import pytest

from uproxy.sources.kubernetes.resources import endpoint_slices, own_node, services

NAME, HEADLESS = "service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"


@pytest.mark.parametrize(
    ("proxy_name", "headless", "of_services", "of_slices"),
    [
        pytest.param(
            None,
            False,
            {"labelSelector": f"!{NAME}", "fieldSelector": "spec.clusterIP!=None"},
            {"labelSelector": f"!{NAME},!{HEADLESS}"},
            id="as kube-proxy",
        ),
        pytest.param(
            "mine",
            False,
            {"labelSelector": f"{NAME}=mine", "fieldSelector": "spec.clusterIP!=None"},
            {"labelSelector": f"!{HEADLESS}"},
            id="a name of our own",
        ),
        pytest.param("mine", True, {"labelSelector": f"{NAME}=mine"}, {}, id="that, and headless too"),
        pytest.param(
            None, True, {"labelSelector": f"!{NAME}"}, {"labelSelector": f"!{NAME}"}, id="headless too"
        ),
    ],
)
def test_selectors(proxy_name, headless, of_services, of_slices):
    assert services(proxy_name, headless).selectors == of_services
    assert endpoint_slices(proxy_name, headless).selectors == of_slices


def test_of_all_nodes_only_our_own_is_asked_for():
    assert own_node("node-1").selectors == {"fieldSelector": "metadata.name=node-1"}
