from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config.settings import StorageSettings
from serve_app.errors import CheckpointRefused
from serve_app.training.checkpoints import resolve_source
from serve_app.training.deployed import latest_checkpoint, read_deployed, write_deployed
from serve_app.training.sources import checkpoint_folders, folders_left_out
from tests.serve_app.training.tiny import copy_of_tiny


def storage(home: Path, *roots: Path) -> StorageSettings:
    return StorageSettings(home=home, model_roots=roots)


def a_checkpoint(path: Path) -> Path:
    """Enough of one to be named."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


class TestResolveSource:
    def test_a_directory_below_a_root_is_taken(self, tmp_path: Path) -> None:
        copy = copy_of_tiny(tmp_path / "root")
        assert resolve_source(str(copy), storage=storage(tmp_path / "home", tmp_path / "root")) == copy.resolve()

    def test_the_models_of_the_home_are_always_a_root(self, tmp_path: Path) -> None:
        copy = copy_of_tiny(tmp_path / "models" / "mine")
        assert resolve_source(str(copy), storage=storage(tmp_path)) == copy.resolve()

    @pytest.mark.parametrize("way", ["plain", "dots", "link"])
    def test_nothing_outside_the_roots_is_taken(self, tmp_path: Path, way: str) -> None:
        outside, root = a_checkpoint(tmp_path / "outside"), tmp_path / "root"
        root.mkdir()
        (root / "link").symlink_to(outside)
        named = {"plain": outside, "dots": root / ".." / "outside", "link": root / "link"}[way]
        with pytest.raises(CheckpointRefused, match="outside the allowed roots"):
            resolve_source(str(named), storage=storage(tmp_path / "home", root))

    def test_a_root_whose_name_begins_alike_is_another(self, tmp_path: Path) -> None:
        other = a_checkpoint(tmp_path / "root-2" / "x")
        with pytest.raises(CheckpointRefused, match="outside"):
            resolve_source(str(other), storage=storage(tmp_path / "home", tmp_path / "root"))

    @pytest.mark.parametrize("source", ["nothing", "a\0b", "x" * 5000, "default:", "default:../mini", "default:none"])
    def test_what_is_not_there_is_refused_with_advice(self, tmp_path: Path, source: str) -> None:
        with pytest.raises(CheckpointRefused) as refused:
            resolve_source(source, storage=storage(tmp_path, tmp_path))
        assert refused.value.advice

    def test_a_link_to_itself_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(CheckpointRefused):
            resolve_source(str(tmp_path / "loop"), storage=storage(tmp_path, tmp_path))

    def test_a_file_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointRefused, match="is a file"):
            resolve_source(str(tmp_path / "model.safetensors"), storage=storage(tmp_path, tmp_path))

    def test_an_empty_folder_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        with pytest.raises(CheckpointRefused, match="nor any checkpoint"):
            resolve_source(str(tmp_path / "mine"), storage=storage(tmp_path, tmp_path))


class TestFolderSource:
    def test_it_is_what_is_deployed_or_else_the_highest_step(self, tmp_path: Path) -> None:
        old = a_checkpoint(tmp_path / "mine" / "checkpoint-3")
        last = a_checkpoint(tmp_path / "mine" / "checkpoint-20")
        assert resolve_source(str(tmp_path / "mine"), storage=storage(tmp_path, tmp_path)) == last.resolve()
        write_deployed(tmp_path / "mine", old)
        assert resolve_source(str(tmp_path / "mine"), storage=storage(tmp_path, tmp_path)) == old.resolve()

    def test_a_link_in_it_leads_nowhere_outside_the_roots(self, tmp_path: Path) -> None:
        outside = a_checkpoint(tmp_path / "outside" / "checkpoint-1")
        (tmp_path / "root" / "mine").mkdir(parents=True)
        (tmp_path / "root" / "mine" / "checkpoint-1").symlink_to(outside)
        with pytest.raises(CheckpointRefused, match="outside the allowed roots"):
            resolve_source(str(tmp_path / "root" / "mine"), storage=storage(tmp_path / "home", tmp_path / "root"))


class TestFoldersToLookIn:
    def folders(self, tmp_path: Path, *names: str) -> dict[str, Path]:
        sources = [str(tmp_path / name) for name in names]
        return checkpoint_folders(sources, storage=storage(tmp_path / "home", tmp_path / "root"))

    def test_a_folder_below_a_root_is_one_by_its_name(self, tmp_path: Path) -> None:
        a_checkpoint(tmp_path / "root" / "mine" / "checkpoint-1")
        assert self.folders(tmp_path, "root/mine") == {"mine": (tmp_path / "root" / "mine").resolve()}

    def test_one_checkpoint_named_alone_is_meant_to_stay(self, tmp_path: Path) -> None:
        a_checkpoint(tmp_path / "root" / "mine" / "checkpoint-1")
        assert self.folders(tmp_path, "root/mine/checkpoint-1") == {}

    def test_nothing_outside_the_roots_is(self, tmp_path: Path) -> None:
        a_checkpoint(tmp_path / "other" / "mine" / "checkpoint-1")
        assert self.folders(tmp_path, "other/mine") == {}

    def test_the_home_s_own_are_found_there(self, tmp_path: Path) -> None:
        a_checkpoint(tmp_path / "home" / "models" / "mine" / "checkpoint-1")
        assert self.folders(tmp_path, "home/models/mine") == {}

    def test_a_name_that_is_taken_is_left_out_and_told(self, tmp_path: Path) -> None:
        for place in ("home/models/mini", "root/mini", "root/a/mine", "root/b/mine"):
            a_checkpoint(tmp_path / place / "checkpoint-1")
        names = ("root/mini", "root/a/mine", "root/b/mine")
        assert self.folders(tmp_path, *names) == {"mine": (tmp_path / "root/a/mine").resolve()}
        left_out = folders_left_out(
            [str(tmp_path / name) for name in names], storage=storage(tmp_path / "home", tmp_path / "root")
        )
        assert left_out == ((tmp_path / "root/mini").resolve(), (tmp_path / "root/b/mine").resolve())


class TestDefaultSource:
    def test_it_is_what_is_deployed(self, tmp_path: Path) -> None:
        folder = tmp_path / "models" / "mini"
        old = a_checkpoint(folder / "checkpoint-1")
        a_checkpoint(folder / "checkpoint-2")
        write_deployed(folder, old)
        assert resolve_source("default:mini", storage=storage(tmp_path)) == old.resolve()

    def test_or_else_the_highest_step(self, tmp_path: Path) -> None:
        for step in (9, 100, 20):
            a_checkpoint(tmp_path / "models" / "mini" / f"checkpoint-{step}")
        assert resolve_source("default:mini", storage=storage(tmp_path)).name == "checkpoint-100"

    def test_before_it_is_made_the_command_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointRefused, match="headroom models make mini"):
            resolve_source("default:mini", storage=storage(tmp_path))


class TestDeployed:
    def test_what_was_written_is_read(self, tmp_path: Path) -> None:
        one, two = (a_checkpoint(tmp_path / f"checkpoint-{step}") for step in (1, 2))
        write_deployed(tmp_path, one)
        assert read_deployed(tmp_path) == one
        write_deployed(tmp_path, two)
        assert read_deployed(tmp_path) == two

    def test_nothing_is_deployed_at_first(self, tmp_path: Path) -> None:
        assert read_deployed(tmp_path) is None

    @pytest.mark.parametrize("target", ["checkpoint-7", "../checkpoint-1", "/etc", "."])
    def test_a_link_to_anything_but_a_checkpoint_here_names_nothing(self, tmp_path: Path, target: str) -> None:
        a_checkpoint(tmp_path / "checkpoint-1")
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / "deployed").symlink_to(target)
        assert read_deployed(folder) is None

    @pytest.mark.parametrize("name", ["elsewhere/checkpoint-1", "other", "checkpoint-404"])
    def test_only_a_checkpoint_of_the_folder_can_be_deployed(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "mine"
        a_checkpoint(folder / "other")
        a_checkpoint(folder / "elsewhere" / "checkpoint-1")
        with pytest.raises(ValueError, match="no checkpoint"):
            write_deployed(folder, folder / name)

    def test_partial_checkpoints_are_never_the_latest(self, tmp_path: Path) -> None:
        a_checkpoint(tmp_path / ".partial-checkpoint-9-1")
        a_checkpoint(tmp_path / "checkpoint-3")
        assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
