from pathlib import Path


def test_there_is_ipvs():
    assert "IP Virtual Server" in Path("/proc/net/ip_vs").read_text()
