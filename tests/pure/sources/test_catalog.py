"""First come, first served; and a mistake never takes away what worked."""

from collections import Counter

from uproxy.model.faults import Fault
from uproxy.model.names import NamespacedName
from uproxy.model.service import Service
from uproxy.sources.catalog import Catalog, merged
from uproxy.sources.manifest import Manifest, Reader

SERVICE = "kind: Service\napiVersion: v1\nmetadata: {name: %s}\nspec: {ports: [{port: %s}]}\n"
A1, A2, B1 = SERVICE % ("a", 1), SERVICE % ("a", 2), SERVICE % ("b", 1)
BAD_A = SERVICE % ("a", 70000)
NOT_YAML = "kind: [\n"
NAMELESS = "kind: Service\napiVersion: v1\n"
UNREADABLE = Fault("f", 0, "", None, "", "cannot be read")


def catalog(last: Catalog | None = None, **files: str) -> Catalog:
    manifests = [
        Reader(name).read(text) if text != "unreadable" else Manifest(name, (), UNREADABLE)
        for name, text in files.items()
    ]
    return merged(manifests, last.entries if last else {})


def ports(made: Catalog) -> dict[str, int]:
    return {
        name.key.name: known.ports[0].port
        for name, known in made.objects().items()
        if isinstance(known, Service)
    }


def faults(made: Catalog) -> list[str]:
    return [str(fault) for fault in made.faults]


def test_the_first_of_two_with_one_name_counts_and_both_places_are_named():
    made = catalog(f=A1, g=f"{B1}---\n{A2}")

    assert ports(made) == {"a": 1, "b": 1}
    assert faults(made) == [
        "g, document 2: Service default/a: is defined twice; the one in f, document 1, is used"
    ]


def test_objects_of_different_kinds_or_namespaces_may_share_a_name():
    endpoints = "kind: Endpoints\napiVersion: v1\nmetadata: {name: a}\n"
    elsewhere = A1.replace("{name: a}", "{name: a, namespace: other}")

    assert not catalog(f=f"{A1}---\n{endpoints}---\n{elsewhere}").faults


def test_other_kinds_are_counted():
    deployment = "kind: Deployment\napiVersion: apps/v1\n"

    assert catalog(f=f"{deployment}---\n{A1}---\n{deployment}").skipped == Counter(Deployment=2)


def test_a_faulty_object_keeps_its_last_good_version_however_often_it_is_wrong():
    made = catalog(catalog(catalog(f=A2), f=BAD_A), f=BAD_A)

    assert ports(made) == {"a": 2}
    assert len(made.faults) == 1


def test_a_faulty_object_that_never_was_good_is_not_there():
    made = catalog(f=f"{BAD_A}---\n{B1}")

    assert ports(made) == {"b": 1}
    assert len(made.faults) == 1


def test_a_corrected_object_takes_over():
    made = catalog(catalog(catalog(f=A2), f=BAD_A), f=A1)

    assert ports(made) == {"a": 1}
    assert not made.faults


def test_an_object_that_is_taken_out_is_gone():
    assert ports(catalog(catalog(f=f"{A1}---\n{B1}"), f=B1)) == {"b": 1}


def test_a_document_that_is_no_yaml_keeps_everything_that_its_file_had():
    made = catalog(catalog(f=f"{A1}---\n{B1}", g=""), f=f"{A2}---\n{NOT_YAML}")

    assert ports(made) == {"a": 2, "b": 1}


def test_so_does_an_object_without_a_name():
    assert ports(catalog(catalog(f=f"{A1}---\n{B1}"), f=f"{A1}---\n{NAMELESS}")) == {"a": 1, "b": 1}


def test_so_does_a_file_that_cannot_be_read_for_as_long_as_it_cannot():
    made = catalog(catalog(catalog(f=A1, g=B1), f="unreadable", g=B1), f="unreadable", g=B1)

    assert ports(made) == {"a": 1, "b": 1}
    assert UNREADABLE in made.faults


def test_what_a_broken_file_kept_goes_when_the_file_is_whole_again():
    assert ports(catalog(catalog(catalog(f=f"{A1}---\n{B1}"), f=NOT_YAML), f=A1)) == {"a": 1}


def test_a_broken_file_keeps_nothing_that_other_files_took_out():
    assert ports(catalog(catalog(f=A1, g=B1), f=NOT_YAML, g="")) == {"a": 1}


def test_a_file_that_is_gone_takes_its_objects_with_it():
    assert ports(catalog(catalog(f=A1, g=B1), g=B1)) == {"b": 1}


def test_an_object_may_move_to_another_file():
    made = catalog(catalog(f=A1, g=B1), f="", g=f"{A1}---\n{B1}")

    assert ports(made) == {"a": 1, "b": 1}
    assert not made.faults


def test_a_broken_first_file_still_wins_over_a_second_definition():
    first = catalog(f=A1, g=A2)

    made = catalog(first, f=NOT_YAML, g=A2)

    assert ports(made) == {"a": 1}
    assert any("is defined twice" in fault for fault in faults(made))


def test_an_endpoints_object_stands_for_several_model_objects():
    text = "kind: Endpoints\napiVersion: v1\nmetadata: {name: a}\nsubsets:\n"
    text += "- addresses: [{ip: 10.244.0.1}, {ip: 'fd00::1'}]\n"

    names = {name.key for name in catalog(f=text).objects()}

    assert names == {NamespacedName("default", "a-0"), NamespacedName("default", "a-1")}


def test_a_fault_that_hides_objects_names_the_services_that_are_stale():
    slice_of_b = (
        "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\naddressType: IPv4\n"
        "metadata: {name: b-1, labels: {kubernetes.io/service-name: b}}\nendpoints: []\n"
    )
    before = catalog(f=f"{A1}---\n{B1}---\n{slice_of_b}")
    after = catalog(before, f=f"{NOT_YAML}---\n{B1}")

    assert ports(after) == {"a": 1, "b": 1}
    assert [{key.name for key in fault.stale} for fault in after.faults] == [{"a", "b"}]
