"""The memory budget in a container: what its limit leaves, with the cache of files that it has read."""

import pytest
import torch

from ncollapse.probe import measure_features, memory
from ncollapse.probe.memory import available_memory

MIB = 2**20
CPU = torch.device("cpu")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files of a control group in place of this machine's."""
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_machine_memory", lambda: 900 * MIB)

    def write_files(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text}\n")

    return write_files


def statistics(prefix="", **pages):
    return "\n".join(f"{prefix}{name} {size * MIB}" for name, size in pages.items())


def test_the_cache_of_files_counts_as_free_in_version_2(write):
    pages = statistics(anon=100, file=330, shmem=30, inactive_file=200, active_file=100, unevictable=30)
    write({"memory.max": 512 * MIB, "memory.current": 450 * MIB, "memory.stat": pages})
    # 100 MiB of its own and 50 MiB of shared and locked pages remain.
    assert available_memory(CPU) == (512 - 450 + 200 + 100) * MIB


def test_the_cache_of_files_counts_as_free_in_version_1(write):
    own = statistics(inactive_file=1, active_file=2)
    with_inner_groups = statistics("total_", inactive_file=200, active_file=100)
    files = {"limit_in_bytes": 512 * MIB, "usage_in_bytes": 450 * MIB, "stat": f"{own}\n{with_inner_groups}"}
    write({f"memory/memory.{name}": text for name, text in files.items()})
    assert available_memory(CPU) == (512 - 450 + 300) * MIB


def test_memory_that_is_in_use_is_not_free(write):
    pages = statistics(anon=500, inactive_file=0, active_file=0)
    write({"memory.max": 512 * MIB, "memory.current": 500 * MIB, "memory.stat": pages})
    assert available_memory(CPU) == 12 * MIB
    write({"memory.current": 520 * MIB})
    assert available_memory(CPU) == 0


def test_without_a_limit_the_machine_decides(write):
    assert available_memory(CPU) == 900 * MIB
    pages = statistics(inactive_file=200, active_file=100)
    write({"memory.max": "max", "memory.current": 450 * MIB, "memory.stat": pages})
    assert available_memory(CPU) == 900 * MIB
    # Version 1 writes the largest number of pages.
    files = {"limit_in_bytes": 9223372036854771712, "usage_in_bytes": 450 * MIB, "stat": statistics("total_", active_file=9)}
    write({f"memory/memory.{name}": text for name, text in files.items()})
    assert available_memory(CPU) == 900 * MIB


def test_a_machine_that_tells_nothing_gets_a_small_budget(write, monkeypatch):
    monkeypatch.setattr(memory, "_machine_memory", lambda: None)
    assert available_memory(CPU) == 2**30


def test_matrices_of_all_classes_that_do_not_fit_are_refused(monkeypatch):
    features, labels = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3 + 4000
    asked = {"num_classes": 5000, "classes": "present", "metrics": ["rank_total", "participation_ratio_total"]}
    size = 8 * 5000 * 6**2
    monkeypatch.setattr(memory, "available_memory", lambda device: 2 * size - 1)
    text = r"d×d matrix for each class: at layer 'features' 5000 × 6² numbers, 0.00134 GiB, and 0.00268 GiB are free"
    with pytest.raises(ValueError, match=text):
        measure_features(features, labels, **asked)
    monkeypatch.setattr(memory, "available_memory", lambda device: 2 * size)
    m = measure_features(features, labels, **asked)
    spectrum = torch.linalg.eigvalsh(torch.cov(features.double().T))
    assert m.value("rank_total") == 6
    assert m.value("participation_ratio_total") == pytest.approx(float(spectrum.sum() ** 2 / spectrum.square().sum()))
