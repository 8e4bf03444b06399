"""What the doctor reads of a machine: files of the kernel, device files, folders."""

from __future__ import annotations

from pathlib import Path

from jaxpaged.doctor.facts import Drivers, device_node, look_at, read_cpu, read_drivers


def test_what_the_kernel_tells_is_read(tmp_path: Path) -> None:
    for name, text in {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA Kernel Module for x86_64  580.65.06  Release Build\n",
        "sys/module/amdgpu/version": "6.16.13\n",
        "sys/class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 96\ngfx_target_version 0\n",
        "sys/class/kfd/kfd/topology/nodes/1/properties": "simd_count 1216\ngfx_target_version 90402\n",
        "sys/class/kfd/kfd/topology/nodes/2/properties": "simd_count 1216\ngfx_target_version 90010\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    cpu = read_cpu(tmp_path)
    assert (cpu.name, cpu.features) == ("AMD EPYC", ("avx2", "amx_bf16"))
    drivers = read_drivers(tmp_path)
    assert drivers == Drivers(amdgpu="6.16.13", nvidia="580.65.06", amd_gpus=("gfx942", "gfx90a"))
    assert read_drivers(tmp_path / "nowhere") == Drivers()


def test_a_device_file_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "kfd"
    assert device_node(path) is None
    path.touch(mode=0o660)
    path.chmod(0o660)
    node = device_node(path)
    assert node is not None
    assert (node.usable, node.mode, node.gid) == (True, "660", path.stat().st_gid)


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    folder = look_at("compiled programs", tmp_path)
    assert (folder.error, folder.used_bytes) == ("", 5)
    assert look_at("compiled programs", tmp_path / "a" / "b").error == ""
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert look_at("compiled programs", Path("/proc/jaxpaged")).error != ""
    assert look_at("compiled programs", tmp_path / "kept" / "below").error == "Not a directory"
