"""Earlier generations of a run, what ``verify`` finds, and the way back that ``repair`` goes."""

import json
import os
import random
import shutil
from dataclasses import replace

import pytest

from ncollapse.cli import main
from ncollapse.recipe_fingerprint import recipe_fingerprint
from ncollapse.records import ReportError, file_names, read_run, verification
from ncollapse.records.errors import DamagedRunError, RunDirectoryError
from ncollapse.records.manifest import CheckedFiles, mark_of, sealed, states
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.saving import generations, held_files, save_files
from ncollapse.records.verification import plan_recovery, recover, repair, verify

CONTENTS = {
    "recipe.json": b'{"name": "demo", "seed": 3, "changed": ["train.epochs=9"]}', "environment.json": b'{"manifest": 1}',
    "glossary.json": b"{}", "history.csv": b"epoch 0", "measurements.csv": b"numbers of epoch 0", "depth.json": b"depth of 0",
    "checkpoint.safetensors": b"weights of epoch 0", "status.json": b'{"epoch": 0}',
}  # fmt: skip
RECIPE = recipe_fingerprint(json.loads(CONTENTS["recipe.json"]))


def contents(epoch):
    """The files at an epoch; what was measured changes at every second one."""
    measured = epoch - epoch % 2
    return {
        **CONTENTS,
        "history.csv": b"epoch %d" % epoch,
        "measurements.csv": b"numbers of epoch %d" % measured,
        "depth.json": b"depth of %d" % measured,
        "checkpoint.safetensors": b"weights of epoch %d" % epoch,
        "status.json": b'{"epoch": %d}' % epoch,
    }


def saved(folder, last, keep=2):
    folder.mkdir(exist_ok=True)
    held = None
    for epoch in range(last + 1):
        held = save_files(folder, contents(epoch), held, epoch=epoch, recipe=RECIPE, keep=keep)
    return folder


def seal(folder):
    """Take the files of a folder as they are."""
    (folder / "manifest.json").write_bytes(sealed(held_files(folder)))


def files(folder):
    return {name: (folder / name).read_bytes() for name in CONTENTS if (folder / name).exists()}


@pytest.mark.parametrize(("keep", "epochs"), [(1, []), (2, [4]), (4, [4, 3, 2])])
def test_as_many_generations_are_kept_as_asked_for(tmp_path, keep, epochs):
    run = saved(tmp_path / "run", 5, keep)
    found = generations(run)
    assert [(item.epoch, item.damaged) for item in found] == [(epoch, ()) for epoch in epochs]
    assert [files(item.folder) for item in found] == [contents(epoch) for epoch in epochs]
    assert files(run) == contents(5)


def test_no_generation_shares_a_file_with_the_run_on_the_disk(tmp_path):
    """Were they one, a damaged block would damage both. Among themselves generations share what did not change."""
    run = saved(tmp_path / "run", 5, 4)
    found = generations(run)
    for name in CONTENTS:
        own = (run / name).stat().st_ino
        assert own not in {(item.folder / name).stat().st_ino for item in found}, name
    assert len({(item.folder / "recipe.json").stat().st_ino for item in found}) == 1


def test_files_are_copied_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*names, **options):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run = saved(tmp_path / "run", 3)
    assert [(item.epoch, item.damaged, files(item.folder)) for item in generations(run)] == [(2, (), contents(2))]


def test_a_second_save_of_an_epoch_keeps_the_generation_before(tmp_path):
    """As the last one of a run, which says that it is finished."""
    run = saved(tmp_path / "run", 3)
    save_files(run, {**contents(3), "status.json": b"finished"}, held_files(run), epoch=3, recipe=RECIPE, keep=2)
    assert [item.epoch for item in generations(run)] == [2]


def test_a_folder_of_generations_that_is_a_link_is_refused(tmp_path):
    run = saved(tmp_path / "run", 0)
    (tmp_path / "mine").mkdir()
    (run / "previous").symlink_to(tmp_path / "mine")
    held = held_files(run)
    with pytest.raises(RunDirectoryError, match=r"previous must be a folder, got a link to .*mine"):
        save_files(run, contents(1), held, epoch=1, keep=2)
    assert files(run) == contents(0)
    assert not list((tmp_path / "mine").iterdir())


def damage_of(kind, rng, content, other):
    place = rng.randrange(len(content))
    if kind == "bit":
        return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
    return {"cut": content[:place], "doubled": content + content, "swapped": other, "deleted": None}[kind]


@pytest.mark.parametrize("kind", ["bit", "cut", "doubled", "swapped", "deleted"])
@pytest.mark.parametrize("name", [*CONTENTS, "manifest.json"])
def test_every_damage_is_found_named_and_brought_back(tmp_path, kind, name):
    """What the files of a generation hold is put back; else the run goes back to the last whole one."""
    run, rng = saved(tmp_path / "run", 5), random.Random(f"{kind} {name}")
    other = b"other" if name != "manifest.json" else (run / "previous/4/manifest.json").read_bytes()
    broken = damage_of(kind, rng, (run / name).read_bytes(), other)
    (run / name).unlink()
    if broken is not None:
        (run / name).write_bytes(broken)
    (found,) = verify(run)
    assert found.state == "damaged"
    named = {item.name for item in found.files if item.meaning}
    assert name in named or (kind, name) == ("swapped", "manifest.json")
    plan = plan_recovery(run)
    unchanged = contents(5)[name] == contents(4)[name] if name in CONTENTS else False
    assert plan.epoch == (None if unchanged else 4)
    recover(plan)
    assert files(run) == contents(5 if unchanged else 4)
    assert verify(run)[0].state == "whole"
    if broken is not None and name in named:
        assert (run / "damaged/1" / name).read_bytes() == broken


def test_a_recovery_that_is_killed_is_done_again(tmp_path, monkeypatch):
    move, count = os.replace, 0
    for die_at in range(1, 30):
        run = saved(tmp_path / f"run-{die_at}", 5)
        (run / "objective.json").write_bytes(b"foreign")
        (run / "checkpoint.safetensors").write_bytes(b"broken")
        count = 0

        def dying(source, target, die_at=die_at):
            nonlocal count
            count += 1
            if count == die_at:
                raise KeyboardInterrupt
            move(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", dying)
            try:
                recover(plan_recovery(run))
            except KeyboardInterrupt:
                again = plan_recovery(run)
                patched.setattr(os, "replace", move)
                if again is not None:
                    recover(again)
            else:
                break
        assert files(run) == contents(4), die_at
        assert verify(run)[0].state == "whole"
        assert not (run / "objective.json").exists()
    assert count > 5


def test_nothing_whole_is_told_and_set_aside_only_when_asked(tmp_path, capsys):
    run = saved(tmp_path / "run", 3)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for folder in (run, run / "previous/2"):
        (folder / "checkpoint.safetensors").write_bytes(b"broken")
    before |= {folder / "checkpoint.safetensors": b"broken" for folder in (run, run / "previous/2")}
    said = repair(run, does=False)
    assert "no earlier save is whole: nothing can be saved" in said[0]
    assert "--unverified` shows the files as they are now" in said[0]
    assert said[-1] == f"Nothing is changed yet. `ncollapse repair {run} --yes` does it."
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    repair(run, does=True)
    assert [path.name for path in run.iterdir()] == ["damaged"]
    assert RunDirectory(run).is_empty()
    assert sorted(path.read_bytes() for path in run.rglob("*") if path.is_file()) == sorted(before.values())


def test_a_damaged_generation_is_told_and_set_aside(tmp_path):
    run = saved(tmp_path / "run", 3)
    (run / "previous/2/depth.json").write_bytes(b"broken")
    (found,) = verify(run)
    assert (found.state, found.earlier[0].name, found.earlier[0].state) == ("damaged", "previous/2", "damaged")
    assert "depth.json" in found.earlier[0].meaning
    repair(run, does=True)
    assert verify(run)[0].state == "whole"
    assert (run / "damaged/1/2/depth.json").read_bytes() == b"broken"


def test_a_generation_without_its_manifest(tmp_path):
    """A kill may leave one while it is made or removed; else its manifest was deleted."""
    run = saved(tmp_path / "run", 3, keep=3)
    (run / "previous/1/manifest.json").unlink()
    (run / "previous/3").mkdir()
    assert [item.epoch for item in generations(run)] == [2]
    assert verify(run)[0].state == "whole"
    (run / "previous/2/manifest.json").unlink()
    (found,) = verify(run)
    assert (found.state, next((item.name, item.meaning) for item in found.earlier)) == (
        "damaged", ("previous/2", "manifest.json: not as written"),
    )  # fmt: skip


def test_the_commands(tmp_path, capsys):
    run = saved(tmp_path / "run", 3)
    main(["verify", str(run)])
    assert capsys.readouterr().out == f"{run}: whole, 8 files as they were written; also previous/2\n"
    (run / "measurements.csv").write_bytes(b"numbers of epoch 9")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(run)])
    assert ended.value.code == 1
    assert capsys.readouterr().out == (
        f"{run}: damaged; also previous/2\n  measurements.csv changed: the measured numbers cannot be trusted\n"
        f"  `ncollapse repair {run}` says what can be saved.\n"
    )
    with pytest.raises(SystemExit):
        main(["verify", str(run), "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["path"]) == ("damaged", str(run))
    # The measurements of epoch 3 are those of epoch 2.
    main(["repair", str(run)])
    assert "an earlier save holds the same content, so nothing is lost" in capsys.readouterr().out
    main(["repair", str(run), "--yes"])
    capsys.readouterr()
    (run / "checkpoint.safetensors").unlink()
    main(["repair", str(run), "--yes"])
    said = capsys.readouterr().out
    assert "checkpoint.safetensors is not as it was written; the run goes back to its save at epoch 2, and what came" in said
    assert f"Then finish it with `ncollapse run demo --out {run} --resume --set train.epochs=9 seed=3`." in said
    main(["verify", str(run)])
    main(["repair", str(run)])
    assert capsys.readouterr().out.endswith(f"{run}: nothing to repair.\n")


def test_a_folder_of_an_older_version_is_not_checked_and_not_touched(run_dir, capsys):
    (found,) = verify(run_dir)
    assert (found.state, {item.state for item in found.files}) == ("unchecked", {"unchecked"})
    assert repair(run_dir, does=True) == [f"{run_dir}: nothing to repair."]
    with pytest.raises(SystemExit):
        main(["verify", str(run_dir)])
    assert "a version without manifests wrote it" in capsys.readouterr().out


def test_a_first_save_that_was_cut_off(tmp_path, monkeypatch):
    move = os.replace
    calls = []

    def dying(source, target):
        calls.append(target)
        if len(calls) == 4:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", dying)
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt):
        save_files(tmp_path / "run", contents(0), None, epoch=0)
    (found,) = verify(tmp_path / "run")
    assert (found.state, found.files) == ("cut off", ())
    assert found.advice.startswith("Nothing was saved. Give the same command again")


def test_a_sweep_is_verified_with_its_runs(tmp_path, write_sweep, capsys):
    folder = write_sweep(tmp_path / "sweep", ("1", "2"), seeds=1)
    for path in folder.iterdir():
        if path.is_dir():
            environment = json.loads((path / "environment.json").read_text())
            (path / "environment.json").write_text(json.dumps({**environment, "manifest": 1}))
        if path.is_dir():
            seal(path)
    seal(folder)
    assert [item.state for item in verify(folder)] == ["whole"] * 3
    text = (folder / "sweep.json").read_text()
    (folder / "sweep.json").write_text(text.replace('"seed": 0', '"seed": 1', 1))
    assert [item.state for item in verify(folder)] == ["damaged", "whole", "whole"]
    assert "Then give the command of the sweep again" in repair(folder, does=True)[0]
    assert not (folder / "sweep.json").exists()


def test_neither_a_run_nor_a_sweep(tmp_path):
    with pytest.raises(ReportError, match="needed a run directory or the folder of a sweep, found neither"):
        verify(tmp_path)


def test_a_table_that_was_edited_is_shown_under_a_banner(run_dir, edit, capsys, without_drawings):
    edit(run_dir / "environment.json", lambda content: content.update(manifest=1))
    seal(run_dir)
    main(["report", str(run_dir)])
    assert "Unverified" not in (run_dir / "report.html").read_text()
    table = run_dir / "measurements.csv"
    table.write_text(table.read_text().replace("150,train,0,stem,pfc1,0.", "150,train,0,stem,pfc1,0.1", 1))
    with pytest.raises(SystemExit):
        main(["report", str(run_dir)])
    assert "measurements.csv: was changed after it was written. `ncollapse repair" in capsys.readouterr().err
    main(["report", str(run_dir), "--unverified", "--out", str(run_dir.parent / "page.html")])
    page = (run_dir.parent / "page.html").read_text()
    assert "<b>Unverified.</b> measurements.csv is not as it was written" in page
    with pytest.raises(SystemExit):
        main(["report", str(run_dir), str(shutil.copytree(run_dir, run_dir.parent / "two")), "--unverified"])
    assert "--unverified shows one run, got 2 folders. Name one run." in capsys.readouterr().err


def test_names_of_all_files_have_a_meaning():
    assert set(verification._MEANING) == {*file_names.OF_A_RUN, "manifest.json", "sweep.json"}


def test_what_a_former_run_holds_is_read_after_its_upgrade(run_dir):
    """A resumed run of an older version gets a manifest, which every later reader compares."""
    directory = RunDirectory(run_dir)
    assert not directory.take_up()
    directory.load(150)
    directory.save(directory.status(), recipe=recipe_fingerprint(json.loads(directory.recipe.read_text())))
    assert read_run(run_dir).environment["manifest"] == 1
    (run_dir / "manifest.json").unlink()
    with pytest.raises(ReportError, match="is missing, so nothing tells whether"):
        read_run(run_dir)


def test_a_recipe_that_was_edited_under_a_fitting_manifest(tmp_path, capsys):
    """Its fingerprint is that of other settings: readers refuse it, and the save before it is brought back."""
    run = saved(tmp_path / "run", 5)
    edited = CONTENTS["recipe.json"].replace(b'"seed": 3', b'"seed": 4')
    (run / "recipe.json").write_bytes(edited)
    present = held_files(run)
    manifest = replace(present, files={**present.files, "recipe.json": mark_of(edited)})
    (run / "manifest.json").write_bytes(sealed(manifest))
    assert states(run, manifest)["recipe.json"] == "changed"
    with pytest.raises(DamagedRunError, match="was changed after"):
        CheckedFiles(run).read(run / "recipe.json")
    assert {item.name for item in verify(run)[0].files if item.state != "whole"} == {"recipe.json"}
    main(["repair", str(run), "--yes"])
    assert "goes back to its save at epoch 4" in capsys.readouterr().out
    assert files(run) == contents(4)
    assert verify(run)[0].state == "whole"
    # What a later version leaves out of a fingerprint is not known here.
    (run / "recipe.json").write_bytes(edited)
    (run / "manifest.json").write_bytes(sealed(replace(manifest, version="9.0.0")))
    assert CheckedFiles(run).read(run / "recipe.json") == edited
