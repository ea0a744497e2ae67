"""What the shell offers after tab, asked of bash itself."""

import shutil
import subprocess

import pytest

from ncollapse.cli import main

OFFERED = {
    "ncollapse re": "recipes repair report reproduce",
    "ncollapse repair --": "--help --yes",
    "ncollapse run fc_m": "fc_mnist fc_mnist_1d fc_mnist_small",
    "ncollapse solve layer_": "layer_peeled",
    "ncollapse completion f": "fish",
    "ncollapse measure --pa": "--path",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(capsys):
    main(["completion", "bash"])
    script = capsys.readouterr().out
    for line in OFFERED:
        words = line.split(" ")
        script += f"\nCOMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _ncollapse"
        script += "; echo $(printf '%s\\n' ${COMPREPLY[@]} | sort)"
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert dict(zip(OFFERED, said.stdout.splitlines(), strict=True)) == OFFERED
    assert said.stderr == ""


def test_zsh_and_fish_offer_the_same(capsys):
    main(["completion", "zsh"])
    assert "bashcompinit" in capsys.readouterr().out
    main(["completion", "fish"])
    said = capsys.readouterr().out
    assert "-n __fish_use_subcommand -a repair -d '" in said
    assert "'__fish_seen_subcommand_from repair' -a '--help --yes'" in said
    assert all(line.replace("\\'", "").count("'") % 2 == 0 for line in said.splitlines())
