from pathlib import Path

import pytest

from uproxy.dataplane.relay.half_closed import ask_every_s

CLOSE_WAIT, FIN_WAIT = "nf_conntrack_tcp_timeout_close_wait", "nf_conntrack_tcp_timeout_fin_wait"


@pytest.mark.parametrize(
    ("clocks", "every_s"),
    [
        ({}, 20),
        ({CLOSE_WAIT: "60", FIN_WAIT: "120"}, 20),
        ({CLOSE_WAIT: "3600", FIN_WAIT: "120"}, 20),  # as kube-proxy has it; other machines have 60 s still
        ({CLOSE_WAIT: "30\n", FIN_WAIT: "120\n"}, 10),
        ({CLOSE_WAIT: "60", FIN_WAIT: "12"}, 4),
        ({CLOSE_WAIT: "2"}, 1),
        ({CLOSE_WAIT: "0"}, 20),
        ({CLOSE_WAIT: "?"}, 20),
    ],
)
def test_three_times_before_the_shortest_clock_ends(tmp_path: Path, clocks: dict[str, str], every_s: int):
    for name, text in clocks.items():
        (tmp_path / name).write_text(text)
    assert ask_every_s(tmp_path) == every_s
