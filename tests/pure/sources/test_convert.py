"""What identifies an object, and that nothing a file may hold makes `convert` fall over."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pure.sources.objects import service
from uproxy.model.names import NamespacedName
from uproxy.sources.convert import convert

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KINDS = [
    ("v1", "Service"),
    ("v1", "Endpoints"),
    ("v1", "Pod"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
]
FIELDS = [
    *("name", "port", "targetPort", "nodePort", "protocol", "ports", "type", "clusterIP", "clusterIPs"),
    *("externalIPs", "selector", "ipFamilies", "sessionAffinity", "sessionAffinityConfig", "clientIP"),
    *("timeoutSeconds", "endpoints", "addresses", "conditions", "ready", "ip", "podIPs", "podIP", "phase"),
    *("containers", "subsets", "loadBalancer", "ingress", "ipMode", "labels", "kubernetes.io/service-name"),
    *("addressType", "status", "spec"),
]
VALUES = st.sampled_from(
    ["IPv4", "FQDN", "None", "ClientIP", "10.0.0.1", "fd00::1", "LoadBalancer", "web", 80, 0, ""]
)
NEARLY_AN_OBJECT = st.recursive(
    JSON | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=30,
)


@settings(max_examples=50)
@given(JSON)
def test_any_data_at_all_is_converted_or_faulted_and_never_raises(document):
    assert convert(document) is not None


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(FIELDS), NEARLY_AN_OBJECT, max_size=6),
    NEARLY_AN_OBJECT,
    NEARLY_AN_OBJECT,
)
def test_any_fields_of_a_known_kind_give_objects_or_faults_but_never_both(kind, fields, spec, labels):
    head = {
        "apiVersion": kind[0],
        "kind": kind[1],
        "metadata": {"name": "web", "labels": labels},
        "spec": spec,
    }

    converted = convert(fields | head)

    assert not (converted.objects and converted.faults)
    assert not (converted.skipped and converted.faults)


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        pytest.param(
            "text", [": must be a mapping with apiVersion, kind and metadata, not 'text'"], id="a string"
        ),
        pytest.param(
            [1], [": must be a mapping with apiVersion, kind and metadata, not a list"], id="a list"
        ),
        pytest.param({}, ["apiVersion: is required", "kind: is required"], id="an empty mapping"),
        pytest.param({"apiVersion": "v1"}, ["kind: is required"], id="no kind"),
        pytest.param({"kind": "Service"}, ["apiVersion: is required"], id="no apiVersion"),
        pytest.param(
            {"kind": 5, "apiVersion": "v1"}, ["kind: must be a string, not 5"], id="kind is a number"
        ),
        pytest.param({"kind": "Service", "apiVersion": "v1"}, ["metadata.name: is required"], id="no name"),
        pytest.param(
            {"kind": "Pod", "apiVersion": "v1", "metadata": "web"},
            ["metadata: must be a mapping, not 'web'", "metadata.name: is required"],
            id="metadata is text",
        ),
        pytest.param(
            {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": 5}},
            ["metadata.name: must be a string, not 5"],
            id="name is a number",
        ),
    ],
)
def test_what_cannot_be_told_from_other_objects_is_a_fault_without_a_key(document, faults):
    converted = convert(document)

    assert [f"{fault.field}: {fault.message}" for fault in converted.faults] == faults
    assert converted.key is None
    assert not converted.skipped


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        pytest.param("apps/v1", "Deployment", id="another kind"),
        pytest.param("serving.knative.dev/v1", "Service", id="another Service"),
        pytest.param("discovery.k8s.io/v1beta1", "EndpointSlice", id="a version that is no longer served"),
        pytest.param("kustomize.config.k8s.io/v1beta1", "Kustomization", id="not even an API object"),
    ],
)
def test_other_kinds_are_skipped_even_without_a_name(version, kind):
    converted = convert({"apiVersion": version, "kind": kind, "metadata": None})

    assert converted.skipped
    assert converted.kind == kind
    assert not converted.faults


def test_namespace_is_default_unless_given():
    assert convert(service()).key == NamespacedName("default", "web")
    assert convert(service(namespace="shop")).key == NamespacedName("shop", "web")


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        pytest.param({"name": "Web"}, "metadata.name", id="upper case"),
        pytest.param({"name": "web.example"}, "metadata.name", id="a dot in a Service's name"),
        pytest.param({"name": "-web"}, "metadata.name", id="a leading dash"),
        pytest.param({"name": "w" * 64}, "metadata.name", id="64 characters"),
        pytest.param({"namespace": "my_shop"}, "metadata.namespace", id="an underscore"),
    ],
)
def test_bad_names_are_faults_of_an_object_that_still_has_a_key(metadata, field):
    converted = convert(service(**metadata))

    assert [fault.field for fault in converted.faults] == [field]
    assert "must be a DNS label" in converted.faults[0].message
    assert converted.key is not None


def test_all_faults_of_an_object_are_found_at_once():
    document = service(
        {"type": "Cluster", "ports": [{"port": 70000, "protocol": "tcp"}], "externalIPs": ["foo"]}
    )

    assert [(fault.field, fault.message) for fault in convert(document).faults] == [
        ("spec.type", "must be one of ClusterIP, NodePort, LoadBalancer, ExternalName, not 'Cluster'"),
        ("spec.ports[0].port", "must be 1 to 65535, not 70000"),
        ("spec.ports[0].protocol", "must be one of TCP, UDP, SCTP, not 'tcp'"),
        ("spec.externalIPs[0]", "must be an IP address, not 'foo'"),
    ]


def test_a_placed_fault_names_file_document_object_and_field():
    converted = convert(service({"ports": [{"port": 0}]})).placed("shop.yaml", 3)

    assert [str(fault) for fault in converted.faults] == [
        "shop.yaml, document 3: Service default/web: spec.ports[0].port: must be 1 to 65535, not 0"
    ]


def test_an_item_of_a_list_without_a_name_is_told_by_its_index():
    placed = convert({"apiVersion": "v1", "kind": "Service"}).placed("shop.json", 1, item=7)

    assert [fault.field for fault in placed.faults] == ["items[7].metadata.name"]


def test_long_values_are_cut_short_in_messages():
    (fault,) = convert(service({"externalIPs": ["x" * 5000]})).faults

    assert len(fault.message) < 150
