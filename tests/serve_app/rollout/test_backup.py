"""Backups of a home: consistent while it is written to, refused when damaged or foreign, no way back for keys."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.access.keys import Grant, Role
from serve_app.access.store import KeyStore
from serve_app.cli import main
from serve_app.controller.store import Store
from serve_app.errors import CheckpointRefused
from serve_app.rollout.backup import Backups, Contents
from serve_app.rollout.backup_manifest import BackupManifest, BackupRefused
from serve_app.rollout.backup_sqlite import KeptRows
from serve_app.rollout.ledger import RolloutLedger
from serve_app.rollout.restore import Targets, restore
from serve_app.training.checkpoints import verify_checkpoint
from serve_app.training.deployed import read_deployed, write_deployed
from tests.serve_app.rollout.parcels import made

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BACKUPS = 100
ADMIN = Grant(roles=frozenset({Role.ADMIN}), tenant=None)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def backups(home: Path) -> Backups:
    return Backups(home, keep_free_bytes=0)


@pytest.fixture
def live(home: Path) -> Iterator[sqlite3.Connection]:
    (home / "state").mkdir(parents=True)
    with closing(sqlite3.connect(home / "state" / "s.sqlite", isolation_level=None, check_same_thread=False)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE same (id INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, revoked INTEGER)")
        yield db


def contents(home: Path, **more: object) -> Contents:
    return Contents(databases={"s.sqlite": home / "state" / "s.sqlite"}, **more)  # type: ignore[arg-type]


def numbers(db: sqlite3.Connection, table: str) -> list[int]:
    return [row[0] for row in db.execute(f"SELECT id FROM {table} ORDER BY id")]


class TestWhileAWriterWrites:
    def test_100_backups_are_100_consistent_states(
        self, backups: Backups, home: Path, live: sqlite3.Connection
    ) -> None:
        """The writer adds to two tables in one transaction. A backup has both or neither, and all that was before."""
        done, written = threading.Event(), 0

        def write() -> None:
            nonlocal written
            while not done.is_set():
                live.execute("BEGIN")
                live.execute("INSERT INTO rows VALUES (?)", (written,))
                live.execute("INSERT INTO same VALUES (?)", (written,))
                live.execute("COMMIT")
                written += 1

        writer = threading.Thread(target=write)
        writer.start()
        consistent = 0
        try:
            for number in range(BACKUPS):
                before = written
                made_ = backups.create(contents(home), now=NOW + timedelta(seconds=number), reason="t", kept=BACKUPS)
                copy = backups.path_of(made_.id) / "state" / "s.sqlite"
                with closing(sqlite3.connect(copy)) as saved:
                    ids = numbers(saved, "rows")
                    consistent += ids == numbers(saved, "same") == list(range(len(ids))) and len(ids) >= before
        finally:
            done.set()
            writer.join()
        assert consistent == BACKUPS
        assert written > BACKUPS
        for listed in backups.listed():
            backups.verify(listed.id)


def _made_key(keys: KeyStore, *, by: str = "") -> str:
    made = keys.create(ADMIN, note="", made_by=by, now_s=1.0)
    assert not isinstance(made, str), made
    return made[0].id


class TestRestoring:
    def test_state_is_as_it_was_but_for_rows_that_never_go_back(
        self, backups: Backups, home: Path, live: sqlite3.Connection
    ) -> None:
        live.execute("INSERT INTO rows VALUES (1)")
        live.execute("INSERT INTO keys VALUES ('a', 0), ('gone', 0)")
        backup = backups.create(contents(home), now=NOW, reason="t")
        live.execute("DELETE FROM rows")
        live.execute("UPDATE keys SET revoked = 1 WHERE key = 'a'")
        live.execute("DELETE FROM keys WHERE key = 'gone'")
        restore(backups, backup.id, Targets(databases={"s.sqlite": live}, kept=(KeptRows(table="keys"),)))
        assert numbers(live, "rows") == [1]
        assert live.execute("SELECT * FROM keys").fetchall() == [("a", 1)]
        assert live.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        live.execute("INSERT INTO rows VALUES (2)")

    def test_single_rows_can_be_what_never_goes_back(
        self, backups: Backups, home: Path, live: sqlite3.Connection
    ) -> None:
        live.execute("INSERT INTO keys VALUES ('epoch', 1), ('else', 1)")
        backup = backups.create(contents(home), now=NOW, reason="t")
        live.execute("UPDATE keys SET revoked = 9")
        kept = (KeptRows(table="keys", keys=("epoch",)), KeptRows(table="not_there"))
        restore(backups, backup.id, Targets(databases={"s.sqlite": live}, kept=kept))
        assert dict(live.execute("SELECT * FROM keys")) == {"epoch": 9, "else": 1}

    def test_a_key_revoked_since_stays_revoked_and_gateways_hear_no_older_version(
        self, backups: Backups, home: Path
    ) -> None:
        path = home / "state" / "controller.sqlite"
        Store(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            keys = KeyStore(db, randomness=os.urandom)
            other = _made_key(keys)
            revoked = _made_key(keys, by=other)
            backup = backups.create(Contents(databases={"s": path}), now=NOW, reason="t")
            keys.revoke(revoked, by=other, now_s=2.0)
            version = keys.snapshot().version
            restore(backups, backup.id, Targets(databases={"s": db}))
            again = KeyStore(db, randomness=os.urandom)
            assert again.snapshot().version >= version
            states = dict(db.execute("SELECT id, revoked_at_s FROM access_keys"))
            assert states == {revoked: 2.0, other: None}

    def test_keys_of_now_stay_when_there_were_none_then(self, backups: Backups, home: Path) -> None:
        path = home / "state" / "controller.sqlite"
        Store(path)
        backup = backups.create(Contents(databases={"s": path}), now=NOW, reason="t")
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            keys = KeyStore(db, randomness=os.urandom)
            _made_key(keys)
            restore(backups, backup.id, Targets(databases={"s": db}))
            assert KeyStore(db, randomness=os.urandom).snapshot().version >= keys.snapshot().version
            assert db.execute("SELECT count(*) FROM access_keys").fetchone() == (1,)

    def test_weights_turned_away_since_are_not_tried_again(self, backups: Backups, home: Path) -> None:
        path = home / "state" / "controller.sqlite"
        Store(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            ledger = RolloutLedger(db)
            backup = backups.create(Contents(databases={"s": path}), now=NOW, reason="t")
            db.execute("INSERT INTO rollouts_turned_away (model, version) VALUES ('mini', 'bad')")
            restore(backups, backup.id, Targets(databases={"s": db}))
            assert ledger.was_turned_away("mini", "bad")

    def test_a_store_s_epochs_go_on_rising(self, backups: Backups, home: Path) -> None:
        path = home / "state" / "controller.sqlite"
        store = Store(path)
        store.reserve_epochs(10)
        store.save_plan(1, b"then")
        backup = backups.create(Contents(databases={"s": path}), now=NOW, reason="t")
        store.reserve_epochs(10)
        store.save_plan(2, b"now")
        restore(backups, backup.id, Targets(databases={"s": store.connection}))
        assert store.last_plan() == b"then"
        assert store.reserve_epochs(1) == 21

    def test_weights_come_back_and_serve_again(self, backups: Backups, home: Path) -> None:
        folder = home / "models" / "tiny"
        old, new = made(folder, step=1), made(folder, step=2, seed=2)
        write_deployed(folder, old)
        version = verify_checkpoint(old).weights_version
        backup = backups.create(Contents(weights={"tiny": old}), now=NOW, reason="t")
        shutil.rmtree(old)
        write_deployed(folder, new)
        restore(backups, backup.id, Targets(models=home / "models"))
        assert read_deployed(folder) == old
        assert verify_checkpoint(old).weights_version == version

    def test_damaged_weights_are_replaced_and_whole_ones_of_another_training_are_not(
        self, backups: Backups, home: Path
    ) -> None:
        folder = home / "models" / "tiny"
        old = made(folder, step=1)
        backup = backups.create(Contents(weights={"tiny": old}), now=NOW, reason="t")
        (old / "model.safetensors").write_bytes(b"cut")
        restore(backups, backup.id, Targets(models=home / "models"))
        verify_checkpoint(old)
        other = verify_checkpoint(made(folder, step=1, seed=5)).weights_version
        with pytest.raises(CheckpointRefused, match="other weights"):
            restore(backups, backup.id, Targets(models=home / "models"))
        assert verify_checkpoint(old).weights_version == other

    def test_configuration_comes_back_whole(self, backups: Backups, home: Path, tmp_path: Path) -> None:
        backup = backups.create(Contents(configuration={"cluster.yaml": b"old: 1\n"}), now=NOW, reason="t")
        target = tmp_path / "cluster.yaml"
        target.write_text("new: 1\n")
        restore(backups, backup.id, Targets(configuration={"cluster.yaml": target}))
        assert target.read_text() == "old: 1\n"


class TestSharing:
    def test_backups_of_the_same_weights_keep_them_once_and_as_long_as_one_needs_them(
        self, backups: Backups, home: Path
    ) -> None:
        one, two = made(home / "models" / "m", step=1), made(home / "models" / "m", step=2, seed=2)
        for number, path in enumerate((one, one, two)):
            backups.create(Contents(weights={"m": path}), now=NOW + timedelta(hours=number), reason="t")
        assert len(backups.weights.stored()) == 2
        assert len(backups.prune(1)) == 2
        assert [stored.digest for stored in backups.weights.stored()] == [
            saved.digest for listed in backups.listed() if listed.manifest for saved in listed.manifest.weights.values()
        ]


def _forge(path: Path, **change: object) -> None:
    told = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**told, **change}))


def _unlink_and_link(path: Path) -> None:
    file = path / "configuration" / "cluster.yaml"
    file.rename(path.parent / "elsewhere")
    file.symlink_to(path.parent / "elsewhere")


class TestRefusals:
    @pytest.fixture
    def backup(self, backups: Backups, home: Path, live: sqlite3.Connection) -> BackupManifest:
        weights = {"tiny": made(home / "models" / "tiny")}
        configuration = {"cluster.yaml": b"a: 1\n"}
        return backups.create(contents(home, weights=weights, configuration=configuration), now=NOW, reason="t")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: (path / "state" / "s.sqlite").unlink(),
            lambda path: os.truncate(path / "state" / "s.sqlite", 4096),
            lambda path: (path / "configuration" / "cluster.yaml").write_bytes(b"a: 2\n"),
            lambda path: (path / "configuration" / "more").write_bytes(b""),
            lambda path: (path / "manifest.json").write_bytes(b"{"),
            lambda path: (path / "manifest.json").unlink(),
            lambda path: _forge(path, reason="another"),
            lambda path: _forge(path, state={}),
            lambda path: _forge(path, configuration={"../../x": {"bytes": 0, "sha256": "0" * 64}}),
            lambda path: _forge(path, weights={"..": {"digest": "0" * 64, "name": "checkpoint-1"}}),
            lambda path: _forge(path, format_version=2),
            lambda path: (path.parent / ".seal").write_bytes(b"of another home"),
            _unlink_and_link,
            lambda path: shutil.rmtree(path.parent / "weights" / "checkpoints"),
        ],
    )
    def test_one_that_is_not_as_it_was_made_changes_nothing(
        self,
        backups: Backups,
        backup: BackupManifest,
        live: sqlite3.Connection,
        damage: Callable[[Path], object],
    ) -> None:
        live.execute("INSERT INTO rows VALUES (7)")
        damage(backups.path_of(backup.id))
        with pytest.raises(BackupRefused):
            restore(backups, backup.id, Targets(databases={"s.sqlite": live}))
        assert numbers(live, "rows") == [7]

    def test_a_renamed_one(self, backups: Backups, backup: BackupManifest) -> None:
        other = backup.id[:-1] + ("0" if backup.id[-1] != "0" else "1")
        backups.path_of(backup.id).rename(backups.path_of(other))
        with pytest.raises(BackupRefused, match="made in another home"):
            backups.verify(other)

    @pytest.mark.parametrize("name", ["../x", "/etc", "", "backup-../..", "weights"])
    def test_a_name_that_is_no_backup_s(self, backups: Backups, name: str) -> None:
        with pytest.raises(BackupRefused):
            backups.verify(name)

    def test_a_damaged_one_is_listed_with_its_reason_and_its_weights_stay(
        self, backups: Backups, backup: BackupManifest
    ) -> None:
        (backups.path_of(backup.id) / "manifest.json").write_bytes(b"{")
        assert [listed.refused is not None for listed in backups.listed()] == [True]
        backups.prune(0)
        assert len(backups.weights.stored()) == 1

    def test_a_database_that_is_none_leaves_no_half_backup(self, backups: Backups, home: Path) -> None:
        (home / "broken").write_bytes(b"no database" * 1000)
        with pytest.raises(BackupRefused, match="No backup was made"):
            backups.create(Contents(databases={"s": home / "broken"}), now=NOW, reason="t")
        assert [path.name for path in (home / "backups").iterdir() if path.name != ".seal"] == ["weights"]


class TestCommand:
    def headroom(self, home: Path, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["backup", *arguments, "--home", str(home)])

    def test_a_home_is_saved_verified_listed_and_restored_and_that_can_be_undone(
        self, home: Path, tmp_path: Path
    ) -> None:
        folder, config = home / "models" / "tiny", tmp_path / "cluster.yaml"
        write_deployed(folder, made(folder))
        config.write_text("a: 1\n")
        Store(home / "state" / "controller.sqlite").close()
        name = self.headroom(home, "create", "--config", str(config)).stdout.strip()
        assert self.headroom(home, "verify", name).stdout == f"ok: {name}\n"
        assert "by hand" in self.headroom(home, "list").stdout
        config.write_text("a: 2\n")
        restored = self.headroom(home, "restore", name, "--config", str(config), "--json")
        assert config.read_text() == "a: 1\n"
        undo = json.loads(restored.stdout)["undo"]
        self.headroom(home, "restore", undo, "--config", str(config))
        assert config.read_text() == "a: 2\n"

    def test_a_running_cluster_s_state_is_not_replaced_under_it(self, home: Path) -> None:
        store = Store(home / "state" / "controller.sqlite")
        name = self.headroom(home, "create").stdout.strip()
        refused = self.headroom(home, "restore", name)
        assert (refused.exit_code, "is in use" in refused.stderr) == (4, True)
        store.close()
        assert self.headroom(home, "restore", name).exit_code == 0

    def test_a_backup_that_is_not_there_is_exit_code_1(self, home: Path) -> None:
        assert self.headroom(home, "verify", "backup-20260101T000000Z-abcdef").exit_code == 1
