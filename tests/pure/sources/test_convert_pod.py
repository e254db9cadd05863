"""The rules for Pods, which are the endpoint controller's."""

from ipaddress import ip_address

import pytest

from tests.pure.sources.objects import pod
from uproxy.model.endpoint import ContainerPort, Pod
from uproxy.model.names import NamespacedName, Protocol
from uproxy.sources.convert import convert

IP, IP6 = ip_address("10.244.0.1"), ip_address("fd00:10:244::1")


def converted(document) -> Pod:
    result = convert(document)
    assert [str(fault) for fault in result.faults] == []
    (made,) = result.objects
    return made


def test_a_running_pod():
    assert converted(pod()) == Pod(
        key=NamespacedName("default", "web-abc"), labels={"app": "web"}, ips=(IP,), ports=(), ready=True
    )


@pytest.mark.parametrize(
    ("status", "ips"),
    [
        pytest.param({}, (IP,), id="podIP"),
        pytest.param({"podIPs": [{"ip": "10.244.0.1"}, {"ip": "fd00:10:244::1"}]}, (IP, IP6), id="podIPs"),
        pytest.param({"podIP": None, "podIPs": [{"ip": "fd00:10:244::1"}]}, (IP6,), id="podIPs alone"),
    ],
)
def test_addresses(status, ips):
    assert converted(pod(status)).ips == ips


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        pytest.param([], False, id="no condition"),
        pytest.param([{"type": "Ready", "status": "False"}], False, id="not ready"),
        pytest.param([{"type": "Initialized", "status": "True"}], False, id="another condition"),
        pytest.param(
            [{"type": "Initialized", "status": "False"}, {"type": "Ready", "status": "True"}],
            True,
            id="ready",
        ),
    ],
)
def test_readiness_is_the_ready_condition(conditions, ready):
    assert converted(pod({"conditions": conditions})).ready is ready


def test_a_pod_that_is_being_deleted_is_terminating_and_may_still_serve():
    made = converted(pod(deletionTimestamp="2026-01-01T00:00:00Z"))

    assert (made.terminating, made.ready) == (True, True)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"podIP": None}, id="no address yet"),
        pytest.param({"podIP": ""}, id="an empty address"),
        pytest.param({"phase": "Succeeded"}, id="succeeded"),
        pytest.param({"phase": "Failed"}, id="failed"),
    ],
)
def test_pods_that_are_no_endpoints_are_skipped(status):
    assert convert(pod(status)).skipped


def test_named_ports_of_containers_and_of_sidecars():
    spec = {
        "containers": [
            {"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9}]},
            {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
        ],
        "initContainers": [
            {"ports": [{"name": "setup", "containerPort": 1}]},
            {"restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15001}]},
        ],
    }

    assert converted(pod(spec=spec)).ports == (
        ContainerPort("http", Protocol.TCP, 8080),
        ContainerPort("dns", Protocol.UDP, 53),
        ContainerPort("mesh", Protocol.TCP, 15001),
    )


@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        pytest.param(pod({"podIP": "x"}), "status.podIP", "must be an IP address, not 'x'", id="podIP"),
        pytest.param(
            pod({"podIPs": [{"ip": "x"}]}),
            "status.podIPs[0].ip",
            "must be an IP address, not 'x'",
            id="podIPs",
        ),
        pytest.param(
            pod(spec={"containers": [{"ports": [{"name": "http"}]}]}),
            "spec.containers[0].ports[0].containerPort",
            "is required",
            id="no containerPort",
        ),
        pytest.param(pod(labels={"app": 1}), "metadata.labels.app", "must be a string, not 1", id="label"),
    ],
)
def test_bad_pods(document, field, message):
    (fault,) = convert(document).faults

    assert (fault.field, fault.message) == (field, message)
