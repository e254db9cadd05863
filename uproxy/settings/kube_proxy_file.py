"""A KubeProxyConfiguration, as kube-proxy reads it: which fields there are, and of which type.

Owns the fields of kubeproxy.config.k8s.io/v1alpha1 and that every mistake is found in one go. As in
kube-proxy, whose lenient decoder comes after its strict one, a field that there is not, or not any more,
ends nothing; nor does a wrong value of a field that means nothing here. Says of each field that is set what
it says, as text; what of it applies here is `kube_proxy`'s table. Takes plain values: whoever reads files
makes them from YAML or JSON.
Source: kube-proxy 1.36, staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go.

A field that is absent, null or its type's zero value is not set: kubeadm writes out every
field there is, and means nothing by most of them.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from uproxy.model.faults import Fault
from uproxy.settings.node_ports import MODES

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"

_INT32 = 2**31
_DURATION = re.compile(r"0|[-+]?((\d+(\.\d*)?|\.\d+)(ns|us|\u00b5s|ms|s|m|h))+")

Check = Callable[[object], str]
"""What a value ought to be, or nothing when it is just that."""
Fields = Mapping[str, "Check | Fields"]


def _text(value: object) -> str:
    return "" if isinstance(value, str) else "a string"


def _switch(value: object) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _integer(value: object) -> str:
    ok = type(value) is int and -_INT32 <= value < _INT32
    return "" if ok else "a whole number of 32 bits"


def _number(value: object) -> str:
    return "" if type(value) in (int, float) else "a number"


def _duration(value: object) -> str:
    ok = isinstance(value, str) and _DURATION.fullmatch(value)
    return "" if ok else 'a duration such as "30s" or "1h30m"'


def _duration_or_nanoseconds(value: object) -> str:
    return "" if type(value) is int else _duration(value)


def _texts(value: object) -> str:
    ok = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return "" if ok else "a list of strings"


def _gates(value: object) -> str:
    ok = isinstance(value, dict) and all(isinstance(item, bool) for item in value.values())
    return "" if ok else "a mapping of names to true or false"


def _mode(value: object) -> str:
    return "" if value in (*MODES, "") else f"one of {', '.join(MODES)}"


def _patterns(value: object) -> str:
    return "" if isinstance(value, list) else "a list of file patterns"


def _quantity(value: object) -> str:
    return "" if isinstance(value, str) or type(value) is int else "a quantity such as 64Ki"


_SYNC: Fields = {"syncPeriod": _duration, "minSyncPeriod": _duration}
_MASQUERADE: Fields = {"masqueradeBit": _integer, "masqueradeAll": _switch}
_STREAMS: Fields = {"splitStream": _switch, "infoBufferSize": _quantity}

_FIELDS: Fields = {
    "apiVersion": _text,
    "kind": _text,
    "featureGates": _gates,
    "clientConnection": {
        "kubeconfig": _text,
        "acceptContentTypes": _text,
        "contentType": _text,
        "qps": _number,
        "burst": _integer,
    },
    "logging": {
        "format": _text,
        "flushFrequency": _duration_or_nanoseconds,
        "verbosity": _integer,
        "vmodule": _patterns,
        "options": {"text": _STREAMS, "json": _STREAMS},
    },
    "hostnameOverride": _text,
    "bindAddress": _text,
    "healthzBindAddress": _text,
    "metricsBindAddress": _text,
    "bindAddressHardFail": _switch,
    "enableProfiling": _switch,
    "showHiddenMetricsForVersion": _text,
    "mode": _mode,
    "iptables": {**_MASQUERADE, "localhostNodePorts": _switch, "snatNodeInternalIP": _switch, **_SYNC},
    "ipvs": {
        **_SYNC,
        "scheduler": _text,
        "excludeCIDRs": _texts,
        "strictARP": _switch,
        "tcpTimeout": _duration,
        "tcpFinTimeout": _duration,
        "udpTimeout": _duration,
    },
    "nftables": {**_MASQUERADE, **_SYNC},
    "winkernel": {
        "networkName": _text,
        "sourceVip": _text,
        "enableDSR": _switch,
        "rootHnsEndpointName": _text,
        "forwardHealthCheckVip": _switch,
    },
    "detectLocalMode": _text,
    "detectLocal": {"bridgeInterface": _text, "interfaceNamePrefix": _text},
    "clusterCIDR": _text,
    "nodePortAddresses": _texts,
    "oomScoreAdj": _integer,
    "conntrack": {
        "maxPerCore": _integer,
        "min": _integer,
        "tcpEstablishedTimeout": _duration,
        "tcpCloseWaitTimeout": _duration,
        "tcpBeLiberal": _switch,
        "udpTimeout": _duration,
        "udpStreamTimeout": _duration,
    },
    "configSyncPeriod": _duration,
    "portRange": _text,
    "windowsRunAsService": _switch,
}


class Read(NamedTuple):
    """What a file says."""

    fields: dict[str, str]
    """Those that are set, by path and as text; none where there are faults."""
    faults: list[Fault]
    warnings: list[str]
    """What is passed over, in lines for the log."""


_FALSE_TOO = ("iptables.localhostNodePorts",)
"""Where false is not what goes without saying."""


def read_fields(file: str, document: object, meant: Collection[str]) -> Read:
    """The fields that are set, and every mistake. `meant` are those that mean something here.

    Lists have commas between their items.
    """
    if not isinstance(document, dict):
        return Read({}, [Fault(file, 0, KIND, None, "", "must be a mapping")], [])
    faults, unknown, wrong = [], [], {}
    for path, message in _mistakes(document, _FIELDS, ""):
        if message is None:
            unknown.append(path)
        elif any(field == path or field.startswith(f"{path}.") for field in (*meant, "apiVersion", "kind")):
            faults.append(Fault(file, 0, KIND, None, path, message))
        else:
            wrong[path] = message
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(field) != wanted:
            faults.append(Fault(file, 0, KIND, None, field, f"must be {wanted}, not {document.get(field)!r}"))
    warnings = [f"not known, and ignored: {', '.join(unknown)}"] if unknown else []
    if wrong:
        words = ", ".join(f"{path} {message}" for path, message in wrong.items())
        warnings.append(f"wrong, though of no meaning here: {words}")
    fields = {} if faults else dict(_set(document, _FIELDS, ""))
    return Read({path: its for path, its in fields.items() if path not in wrong}, faults, warnings)


def _mistakes(
    section: Mapping[object, object], fields: Fields, path: str
) -> Iterator[tuple[str, str | None]]:
    """Paths, with what is wrong there; None where there is no such field."""
    for name, value in section.items():
        here = f"{path}{name}"
        wanted = fields.get(str(name))
        if wanted is None:
            yield here, None
        elif value is None:
            continue
        elif callable(wanted):
            if expected := wanted(value):
                yield here, f"must be {expected}, not {_shown(value)}"
        elif isinstance(value, dict):
            yield from _mistakes(value, wanted, f"{here}.")
        else:
            yield here, f"must be a mapping, not {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value)[:80]


def _set(section: Mapping[str, object], fields: Fields, path: str) -> Iterator[tuple[str, str]]:
    for name, value in section.items():
        here, wanted = f"{path}{name}", fields.get(str(name))
        if wanted is None:
            continue
        if isinstance(value, dict) and not callable(wanted):
            yield from _set(value, wanted, f"{here}.")
        elif not _is_nothing(value) or (value is False and here in _FALSE_TOO):
            yield here, ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_nothing(value: object) -> bool:
    return value in (None, "", False, 0, "0", "0s", [], {})
