"""Other people's proxies, and the kernel's own: their configurations, as text.

Owns what is fair to compare: every proxy has one thread, and is as it comes but for what its
name says. Pure; who starts them is `paths`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uproxy.bench.sites import Pod

NGINX_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""Where Debian and Ubuntu have it; elsewhere it is part of the program."""

DNAT_TABLE = "uproxy_bench"


@dataclass(frozen=True, slots=True)
class Forward:
    """An address that leads to some pods, taking turns."""

    ip: str
    port: int
    pods: Sequence[Pod]


def haproxy_config(forwards: Sequence[Forward], *, tuned: bool) -> str:
    """Return HAProxy's, as installed or `tuned` for bulk: larger buffers and forced splice."""
    lines = ["global", "  nbthread 1", *(["  tune.bufsize 131072"] if tuned else [])]
    lines += ["defaults", "  mode tcp", "  balance roundrobin", "  timeout connect 2s"]
    lines += ["  timeout client 1h", "  timeout server 1h", "  retries 3", "  option redispatch"]
    lines += ["  option splice-request", "  option splice-response"] if tuned else []
    for number, forward in enumerate(forwards):
        lines += [f"listen service{number}", f"  bind {forward.ip}:{forward.port}"]
        lines += [f"  server {pod.name} {pod.ip}:{pod.port}" for pod in forward.pods]
    return "\n".join(lines) + "\n"


def nginx_config(forwards: Sequence[Forward], directory: Path) -> str:
    """Return that of nginx's stream proxy in a single process, for TCP and UDP."""
    load = f"load_module {NGINX_STREAM_MODULE};\n" if NGINX_STREAM_MODULE.exists() else ""
    servers = "".join(_nginx_service(number, forward) for number, forward in enumerate(forwards))
    return (
        f"{load}daemon off;\nmaster_process off;\nworker_processes 1;\n"
        f"pid {directory}/pid;\nerror_log stderr crit;\n"
        f"events {{ worker_connections 65536; }}\n"
        f"stream {{\nproxy_connect_timeout 2s;\nproxy_timeout 1h;\n{servers}}}\n"
    )


def _nginx_service(number: int, forward: Forward) -> str:
    listen = f"{forward.ip}:{forward.port}"
    servers = " ".join(f"server {pod.ip}:{pod.port};" for pod in forward.pods)
    return (
        f"upstream service{number} {{ {servers} }}\n"
        f"server {{ listen {listen}; proxy_pass service{number}; }}\n"
        f"server {{ listen {listen} udp; proxy_pass service{number}; }}\n"
    )


def dnat_rules(forwards: Sequence[Forward], others: Sequence[Forward]) -> str:
    """Return nftables rules of kube-proxy's kind: one lookup for the Service, one for the turn.

    `others` have one pod each. They are elements of a map, not chains: nft takes 20 s to load
    10,000 chains with a map each, which is not the path's fault.
    """
    chains = "\n".join(
        f"chain service{number} {{\n{_turns(forward.pods)}\n}}" for number, forward in enumerate(forwards)
    )
    vips = ", ".join(
        f"{forward.ip} . {forward.port} : goto service{number}" for number, forward in enumerate(forwards)
    )
    single = ", ".join(
        f"{other.ip} . {other.port} : {other.pods[0].ip} . {other.pods[0].port}" for other in others
    )
    return f"""\
table ip {DNAT_TABLE} {{
{chains}
map services {{
type ipv4_addr . inet_service : verdict
elements = {{ {vips} }}
}}
map single {{
type ipv4_addr . inet_service : ipv4_addr . inet_service
{f"elements = {{ {single} }}" if single else ""}
}}
chain prerouting {{
type nat hook prerouting priority -100
meta l4proto {{ tcp, udp }} ip daddr . th dport vmap @services
meta l4proto tcp dnat ip to ip daddr . tcp dport map @single
}}
}}
"""


def dnat_change(number: int, pods: Sequence[Pod]) -> str:
    """Return the transaction that gives the Service with that number other pods."""
    chain = f"ip {DNAT_TABLE} service{number}"
    rules = "\n".join(f"add rule {chain} {rule}" for rule in _turns(pods).splitlines())
    return f"flush chain {chain}\n{rules}\n"


def _turns(pods: Sequence[Pod]) -> str:
    turns = ", ".join(f"{turn} : {pod.ip} . {pod.port}" for turn, pod in enumerate(pods))
    choice = f"dnat ip to numgen inc mod {len(pods)} map {{ {turns} }}"
    return f"meta l4proto tcp {choice}\nmeta l4proto udp {choice}"
