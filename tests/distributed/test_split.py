"""Networks whose parameters are split between processes (FSDP2, tensor parallel)."""

from pathlib import Path

from distributed import launch


def test_split_networks_are_refused_with_what_to_do():
    result = launch.forked(2, [str(Path(__file__).with_name("split_network.py"))])
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("refused and measured whole") == 2
