"""Whether what Pods send passes this node, as the configuration of its network plugin has it.

With some plugins Pods are on the node's own wire, beside it: their packets never come to the node's IP layer,
so no capture sees them, nor would kube-proxy. From inside the node such a link cannot be seen, but the
configuration says it. Owns reading that as the runtime does: the first file in order of names is that of
Pods. Refuses to fail for what it cannot read, since it only has something to tell. Sources: the CNI
specification, "Network configuration format"; libcni's `ConfFiles`; the pages of the plugins at cni.dev.
"""

import json
from pathlib import Path
from typing import Any

CONFIGURATIONS = Path("/etc/cni/net.d")
"""Where containerd, CRI-O and kubelet look."""

_ENDINGS = (".conf", ".conflist", ".json")
_BESIDE_THE_NODE = frozenset(("macvlan", "ipvlan", "vlan", "host-device", "sriov", "ib-sriov"))


def warning(folder: Path = CONFIGURATIONS) -> str:
    """What does not work with the Pods' links, in one line; empty when nothing is known against them."""
    for path in _files(folder):
        plugin = _main_plugin(path)
        return f"{words} ({path})" if plugin is not None and (words := _objection(plugin)) else ""
    return ""


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    except OSError:
        return []


def _main_plugin(path: Path) -> dict[str, Any] | None:
    """The one that makes the link: the first of a list."""
    try:
        found = json.loads(path.read_bytes())
        plugin = found["plugins"][0] if "plugins" in found else found
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return plugin if isinstance(plugin, dict) else None


def _objection(plugin: dict[str, Any]) -> str:
    kind = plugin.get("type")
    if kind == "ipvlan" and str(plugin.get("mode", "l2")).startswith("l3"):
        return ""  # what Pods send is routed by the node, as if it were the node's own
    if kind in _BESIDE_THE_NODE:
        return (
            f"Pods are attached by {kind}, beside this node: what they send to Services does not pass it, "
            "and is not captured unless their gateway leads it here"
        )
    if kind == "bridge" and not (plugin.get("isGateway") or plugin.get("isDefaultGateway")):
        return (
            "the gateway of Pods is not this node: what they send to Services passes it on a bridge only; "
            "redirect and tproxy take TCP, where br_netfilter is on, and nothing takes UDP"
        )
    return ""
