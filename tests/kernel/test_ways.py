"""What does not boot is no failure of ours: the next way is tried, and the last one says why nothing does."""

from pathlib import Path

import pytest

from tests.kernel import uml, vm
from tests.kernel.guest import Ended, NoKernel, run_by_the_first
from tests.missing_packages import PATH, no_vm


def refusing(argv, state, timeout_s):
    raise NoKernel(f"not in {state.name}")


def program(folder: Path, name: str, *lines: str) -> str:
    """A program of this name; returns a PATH that has it first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(("#!/bin/sh", *lines, "")))
    (folder / name).chmod(0o755)
    return f"{folder}:{PATH}"


def test_the_next_way_is_taken(tmp_path):
    def working(argv, state, timeout_s):
        return Ended(7, " ".join(argv))

    assert run_by_the_first([refusing, working, refusing], ["one", "two"], tmp_path, 1) == (7, "one two")


def test_all_reasons_are_told(tmp_path):
    with pytest.raises(NoKernel, match=r"^not in 0; not in 1$"):
        run_by_the_first([refusing, refusing], ["true"], tmp_path, 1)


def test_user_mode_linux_that_aborts_is_no_kernel(tmp_path, monkeypatch):
    path = program(tmp_path / "bin", "linux.uml", "echo 'xstate is too large' >&2", "kill -ABRT $$")
    monkeypatch.setattr(uml, "PATH", path)
    monkeypatch.setattr(uml, "no_uml", lambda: None)
    with pytest.raises(NoKernel, match=r"user-mode-linux: the kernel ended with -6: xstate is too large"):
        uml.run_in_uml(["true"], tmp_path, 20)


@pytest.mark.skipif(no_vm() is not None, reason=str(no_vm()))
def test_kvm_that_aborts_leads_to_emulation_and_that_to_the_reason(tmp_path, monkeypatch):
    lines = 'echo "$2 does not work" >&2', "exit 3"
    monkeypatch.setattr(vm, "PATH", program(tmp_path / "bin", "qemu-system-x86_64", *lines))
    monkeypatch.setattr(vm, "_BROKEN", {})
    monkeypatch.setattr(vm.os, "access", lambda *_: True)
    with pytest.raises(NoKernel, match=r"\(kvm\) .*: kvm does not work; QEMU \(tcg\) .*: tcg does not work"):
        vm.run_in_vm(["true"], tmp_path, 20)
    assert list(vm._BROKEN) == ["kvm", "tcg"]
