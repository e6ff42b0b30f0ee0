"""``chash doctor``: what it finds on machines of many kinds, each described by a few files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_entry import Chash

from concepthash.cli import doctor, doctor_gpu
from concepthash.cli.doctor_check import Imported, try_imports
from concepthash.runtime import machine

XEON = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n"
OLD_PC = "model name\t: Some Core\nflags\t\t: fpu avx avx2\n"
RASPBERRY = "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nModel\t\t: Raspberry Pi 5\n"
NVIDIA_SMI = "#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 580.10'\n"


def write(root: Path, **files: str) -> Path:
    """A file system with files by path, its slashes written as two underscores."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


# The whole verb


def test_doctor__reports_and_exits_0(chash: Chash, monkeypatch: pytest.MonkeyPatch) -> None:
    value = chash("doctor", "--json").json("chash.doctor/1")
    checks = {check["name"]: check["status"] for check in value["checks"]}
    assert checks["runtime"] == "ok"
    assert set(checks) >= {
        "cpu",
        "threads",
        "memory",
        "kernel",
        "gpu",
        "openvino",
        "tensorrt",
        "trt-rtx",
        "cuda",
        "torch",
        "disk",
    }
    assert {"index", "query", "explain", "atlas", "eval", "bench"} <= set(value["ready"])
    for name in ("doctor", "doctor_gpu"):
        monkeypatch.setattr(f"concepthash.cli.{name}.version", lambda package: "1.0")
    text = chash("doctor").out
    assert "onnxruntime and onnxruntime-gpu overwrite each other" in text
    assert "ray 1.0, pyarrow 1.0" in text
    assert "fsspec 1.0" in text
    for name in ("doctor", "doctor_gpu"):
        monkeypatch.setattr(f"concepthash.cli.{name}.version", lambda package: None)
    result = chash("doctor")
    assert result.code == 0
    assert "pip install 'concepthash[train]'" in result.out
    assert "pip install 'concepthash[serve]'" in result.out
    for extra in ("ray", "parquet", "url"):
        assert f"pip install 'concepthash[{extra}]'" in result.out
    assert result.out.splitlines()[-1] == "Ready: index, query, explain, atlas, eval, bench."


def test_doctor__imports_neither_torch_nor_openvino_into_itself() -> None:
    code = (
        "import sys\nfrom concepthash.cli.main import run\nsys.argv = ['chash', 'doctor']\n"
        "try: run()\nexcept SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'openvino', 'tensorrt_rtx'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == "[]"


# Processor, threads, memory


@pytest.mark.parametrize(
    ("text", "name", "features", "words"),
    [
        (
            XEON,
            "Some Xeon",
            ("avx2", "avx512f", "avx512_vnni", "amx_int8"),
            "worth it here (avx512_vnni, amx_int8)",
        ),
        (OLD_PC, "Some Core", ("avx2",), "hardly faster here"),
        (RASPBERRY, "Raspberry Pi 5", ("asimd", "asimddp"), "worth it here (asimddp)"),
        ("", None, (), "does not say"),
    ],
)
def test_cpu__says_what_int8_gains(
    tmp_path: Path, text: str, name: str | None, features: tuple[str, ...], words: str
) -> None:
    root = write(tmp_path, proc__cpuinfo=text)
    found = machine.processor(root)
    assert found.features == features
    assert found.name == name or name is None
    check = doctor._cpu(root)
    assert words in check.hint
    assert found.name in check.value


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpu_DOT_max": "max 100000"}, None),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpu_DOT_max": "150000 100000"}, 1.5),
        (
            {
                "proc__self__cgroup": "0::/pod/inner\n",
                "sys__fs__cgroup__pod__cpu_DOT_max": "200000 100000",
                "sys__fs__cgroup__pod__inner__cpu_DOT_max": "max 100000",
            },
            2.0,
        ),
        (
            {
                "proc__self__cgroup": "3:memory:/\n2:cpu,cpuacct:/of/the/host\n",
                "sys__fs__cgroup__cpu,cpuacct__cpu_DOT_cfs_quota_us": "50000",
                "sys__fs__cgroup__cpu,cpuacct__cpu_DOT_cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            {
                "proc__self__cgroup": "2:cpu:/\n",
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us": "-1",
                "sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_threads__knows_the_limit_of_the_control_group(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    root = write(tmp_path, **files)
    assert machine.cpu_quota(root) == quota
    check = doctor._threads(root, {}, usable=8)
    assert (check.status == "warning") == (quota is not None)
    if quota is not None:
        assert f"the time of {quota:g}" in check.value
        assert f"CHASH_THREADS={max(1, int(quota))}" in check.hint


def test_threads__tells_of_affinity_and_of_omp(tmp_path: Path) -> None:
    check = doctor._threads(tmp_path, {"OMP_NUM_THREADS": "1,2"}, usable=8)
    assert check.status == "ok"
    assert "OMP_NUM_THREADS=1" in check.value
    assert doctor._threads(tmp_path, {"OMP_NUM_THREADS": "8"}, usable=8).hint == ""
    assert "of" not in doctor._threads(tmp_path, {}, usable=4096).value


def test_memory__is_what_the_control_group_leaves(tmp_path: Path) -> None:
    info = "MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    4000000 kB\n"
    root = write(tmp_path, proc__meminfo=info)
    assert machine.memory(root) == machine.Memory(8_192_000_000, None, 4_096_000_000)
    assert doctor._memory(root).value == "4.1 GB free of 8.2 GB"
    write(root, proc__self__cgroup="0::/\n", sys__fs__cgroup__memory_DOT_max="500000000")
    assert machine.memory(root) == machine.Memory(8_192_000_000, 500_000_000, 500_000_000)
    check = doctor._memory(root)
    assert check.status == "warning"
    assert check.value == "0.5 GB free of 0.5 GB that a control group allows"
    assert doctor._memory(tmp_path / "elsewhere").value == "the system does not say"


# GPUs


@pytest.mark.parametrize(
    ("line", "jetpack", "tensorrt"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 1, BOARD: generic", "5 or older", 8),
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", "6", 10),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic", "7.0 or 7.1", 10),
        ("# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic", "7.2", 10),
        ("# R39 (release), REVISION: 2.2, GCID: 1, BOARD: generic", "7.2.2 or newer", 11),
        ("# R40 (release), REVISION: 1, GCID: 1, BOARD: generic", "7.2.2 or newer", 11),
    ],
)
def test_jetson__jetpack_means_a_tensorrt(
    tmp_path: Path, line: str, jetpack: str, tensorrt: int
) -> None:
    root = write(tmp_path, etc__nv_tegra_release=f"{line}\nINSTALL_TYPE=\n")
    board = machine.jetson(root)
    assert board is not None
    assert (board.jetpack, board.tensorrt) == (jetpack, tensorrt)
    gpu = doctor_gpu.jetson_gpu(board)
    assert gpu.status == ("warning" if tensorrt < 10 else "ok")
    assert f"TensorRT {tensorrt}" in gpu.value
    right = doctor_gpu.tensorrt({"tensorrt": Imported(f"{max(tensorrt, 10)}.3.0")}, board, gpu=True)
    assert right.status == ("warning" if tensorrt < 10 else "ok")
    wrong = doctor_gpu.tensorrt({"tensorrt": Imported("12.0.0")}, board, gpu=True)
    assert f"JetPack {jetpack} has TensorRT {tensorrt}" in wrong.value
    absent = doctor_gpu.tensorrt({}, board, gpu=True)
    assert "--system-site-packages" in absent.hint


def test_jetson__others_are_none(tmp_path: Path) -> None:
    assert machine.jetson(tmp_path) is None
    assert machine.jetson(write(tmp_path, etc__nv_tegra_release="anything")) is None


def test_gpu__is_what_nvidia_smi_lists(tmp_path: Path) -> None:
    assert doctor_gpu.nvidia_gpu(None).status == "missing"
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI, encoding="utf-8")
    program.chmod(0o755)
    check = doctor_gpu.nvidia_gpu(str(program))
    assert (check.status, check.value) == ("ok", "NVIDIA GeForce RTX 4090, 580.10")
    program.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    assert doctor_gpu.nvidia_gpu(str(program)).status == "warning"


def test_libraries__missing_says_what_to_install() -> None:
    assert "pip install 'concepthash[openvino]'" in doctor_gpu.openvino({}).hint
    assert "pip install 'concepthash[trt]'" in doctor_gpu.tensorrt({}, None, gpu=True).hint
    assert "not needed" in doctor_gpu.tensorrt({}, None, gpu=False).hint
    assert "pip install 'concepthash[trt-rtx]'" in doctor_gpu.tensorrt_rtx({}, gpu=False).hint


def test_libraries__found_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor_gpu.openvino({"openvino": Imported("2026.4.1 CPU GPU")})
    assert (found.status, found.value) == ("ok", "2026.4.1 (CPU, GPU)")
    broken = {name: Imported("", "ImportError: libx.so") for name in doctor_gpu.MODULES}
    for check in (
        doctor_gpu.openvino(broken),
        doctor_gpu.tensorrt(broken, None, gpu=True),
        doctor_gpu.tensorrt_rtx(broken, gpu=True),
    ):
        assert check.status == "warning"
        assert "libx.so" in check.value
        assert "pip install --force-reinstall" in check.hint
    old = doctor_gpu.tensorrt({"tensorrt": Imported("8.6.1")}, None, gpu=True)
    assert (old.status, old.value) == ("warning", "8.6.1, too old")
    without = doctor_gpu.tensorrt_rtx({"tensorrt_rtx": Imported("1.7.1")}, gpu=False)
    assert without.value == "1.7.1, to build; running needs a GPU"
    monkeypatch.setattr(doctor_gpu, "version", lambda package: "1.31")
    newer = doctor_gpu.tensorrt({"tensorrt": Imported("11.4.0")}, None, gpu=True)
    assert newer.status == "ok"
    assert "provider wants 10" in newer.hint


def test_cuda_bindings__are_needed_with_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_gpu, "version", lambda package: None)
    assert doctor_gpu.cuda_bindings(gpu=True).hint == "pip install cuda-bindings"
    assert "not needed" in doctor_gpu.cuda_bindings(gpu=False).hint
    monkeypatch.setattr(doctor_gpu, "version", lambda package: "13.5.0")
    assert doctor_gpu.cuda_bindings(gpu=True).value == "cuda-bindings 13.5.0"


@pytest.mark.parametrize(
    ("build", "gpu", "status", "value"),
    [
        (
            "__version__ = '2.9+cu130'\ncuda: Optional[str] = '13.0'\n",
            True,
            "ok",
            "2.9+cu130, CUDA 13.0",
        ),
        ("__version__ = '2.9'\ncuda = '13.0'\n", False, "ok", "2.9, CUDA 13.0 (no GPU here)"),
        (
            "__version__ = '2.9'\ncuda: Optional[str] = None\n",
            True,
            "warning",
            "2.9, built without CUDA",
        ),
        ("__version__ = '2.9'\ncuda = None\n", False, "ok", "2.9, built without CUDA"),
        (None, False, "missing", "not installed"),
    ],
)
def test_torch__says_whether_it_was_built_for_cuda(
    build: str | None, gpu: bool, status: str, value: str
) -> None:
    check = doctor_gpu.torch_cuda(build, gpu=gpu)
    assert (check.status, check.value) == (status, value)


def test_try_imports__a_crash_or_error_is_an_answer() -> None:
    assert try_imports({"no_such_module_at_all": "print(1)"}) == {}
    assert try_imports({"json": "print('a word')"}) == {"json": Imported("a word")}
    failed = try_imports({"json": "raise ValueError('no library')"})["json"]
    assert failed.error == "ValueError: no library"
    ended = try_imports({"json": "import os; os._exit(9)"})["json"]
    assert ended.error == "exit code 9"
