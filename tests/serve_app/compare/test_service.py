"""Every checkpoint is found, scored once, and ranked; whatever cannot be is refused with its reason, once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import format_trace_id

from serve_app.cli import main
from serve_app.compare.board import Board
from serve_app.compare.finder import MAX_ATTEMPTS, Record, Seen, State, due
from serve_app.compare.scan import scan
from serve_app.compare.service import ComparisonService
from serve_app.compare.store import ComparisonStore
from serve_app.training.checkpoints import verify_checkpoint
from tests.serve_app.compare.builders import FakeScorer, Home, database
from tests.serve_app.controller.traced import traced
from tests.serve_app.training.tiny import tiny_checkpoint


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.test_set(*"abcdefghij")
    return home


def service(home: Home, scorer: FakeScorer, store: ComparisonStore | None = None) -> ComparisonService:
    return ComparisonService(
        home=home.path, store=store or ComparisonStore(database()), scorer=scorer, clock=lambda: 1000.0
    )


def lines(home: Home) -> list[dict[str, object]]:
    content = json.loads((home.path / "status" / "model_comparisons.json").read_text())
    found: list[dict[str, object]] = content["models"]["tiny"]
    return found


class TestFinder:
    seen = st.builds(
        Seen,
        model=st.just("m"),
        path=st.sampled_from("abcd"),
        stamp=st.sampled_from("12"),
        step_in_name=st.integers(0, 3),
        deployed=st.booleans(),
    )
    records = st.builds(
        Record,
        model=st.just("m"),
        path=st.sampled_from("abcd"),
        stamp=st.sampled_from("12"),
        state=st.sampled_from(State),
        num_attempts=st.integers(0, MAX_ATTEMPTS + 1),
    )

    @given(st.lists(seen, unique_by=lambda one: one.path), st.lists(records))
    def test_nothing_that_is_unknown_or_changed_is_missed(self, seen: list[Seen], known: list[Record]) -> None:
        by_path = {record.path: record for record in known}
        found = set(due(seen, by_path))
        assert {one for one in seen if one.path not in by_path or by_path[one.path].stamp != one.stamp} <= found

    @given(st.lists(seen, unique_by=lambda one: one.path), st.lists(records))
    def test_what_was_settled_with_these_files_is_left_alone(self, seen: list[Seen], known: list[Record]) -> None:
        by_path = {record.path: record for record in known}
        for one in due(seen, by_path):
            record = by_path.get(one.path)
            assert record is None or record.stamp != one.stamp or record.num_attempts < MAX_ATTEMPTS
            assert record is None or record.stamp != one.stamp or record.state is State.FAILED

    @given(st.lists(seen, unique_by=lambda one: one.path))
    def test_what_serves_comes_first_then_the_highest_step(self, seen: list[Seen]) -> None:
        order = [(not one.deployed, -one.step_in_name) for one in due(seen, {})]
        assert order == sorted(order)


class TestScan:
    def test_it_sees_whole_checkpoints_only(self, home: Home) -> None:
        home.write(3)
        (home.folder / ".partial-checkpoint-4").mkdir()
        (home.folder / "deployed").symlink_to("checkpoint-3")
        assert [(Path(one.path).name, one.deployed) for one in scan(home.path)] == [("checkpoint-3", True)]

    def test_a_stamp_changes_with_every_change_of_the_files(self, home: Home) -> None:
        path = home.write(3)
        stamps = [scan(home.path)[0].stamp, scan(home.path)[0].stamp]
        assert len(set(stamps)) == 1
        (path / "config.json").write_text((path / "config.json").read_text())
        stamps.append(scan(home.path)[0].stamp)
        (path / "more.txt").touch()
        stamps.append(scan(home.path)[0].stamp)
        home.test_set("z")
        stamps.append(scan(home.path)[0].stamp)
        assert len(set(stamps)) == 4

    def test_folders_outside_the_home_are_looked_into_but_never_in_the_place_of_its_own(
        self, home: Home, tmp_path: Path
    ) -> None:
        own = home.write(3)
        other = tmp_path / "elsewhere" / "other"
        (other / "checkpoint-7").mkdir(parents=True)
        seen = scan(home.path, {"other": other, "tiny": other})
        assert [(one.model, one.path) for one in seen] == [("other", str(other / "checkpoint-7")), ("tiny", str(own))]

    def test_a_home_without_models_has_none(self, tmp_path: Path) -> None:
        assert scan(tmp_path) == ()


class TestComparisons:
    async def test_each_is_scored_once_over_turns_and_restarts(self, home: Home) -> None:
        scorer, store = FakeScorer(), ComparisonStore(database())
        for step in (1, 2, 3):
            home.write(step)
        for _ in range(3):
            await service(home, scorer, store).turn()
        assert scorer.asked == ["checkpoint-3", "checkpoint-2", "checkpoint-1"]

    async def test_the_same_weights_in_another_folder_are_not_scored_again(self, home: Home) -> None:
        scorer = FakeScorer()
        home.write(7)
        compared = service(home, scorer)
        await compared.turn()
        home.write(7, name="checkpoint-8")
        await compared.turn()
        assert scorer.asked == ["checkpoint-7"]
        assert [line["rank"] for line in lines(home)] == [1, 1]

    async def test_one_that_comes_while_another_is_scored_is_not_missed(self, home: Home) -> None:
        def says(path: Path) -> None:
            if path.name == "checkpoint-1":
                home.write(2)

        scorer = FakeScorer(says)
        home.write(1)
        await service(home, scorer).turn()
        assert scorer.asked == ["checkpoint-1", "checkpoint-2"]

    async def test_a_notice_wakes_the_loop(self, home: Home) -> None:
        scorer = FakeScorer()
        compared = service(home, scorer)
        ranked: asyncio.Queue[Board] = asyncio.Queue()
        compared.on_ranked(ranked.put_nowait)
        home.write(1)
        loop = asyncio.create_task(compared.run())
        async with asyncio.timeout(30):
            await ranked.get()
            home.write(2)
            compared.noticed()
            await ranked.get()
        loop.cancel()
        assert scorer.asked == ["checkpoint-1", "checkpoint-2"]

    async def test_a_step_is_the_trainers_or_the_names_and_never_null(self, home: Home) -> None:
        home.write(1, name="checkpoint-5")
        home.write(2, name="checkpoint-6", state={})
        home.write(3, name="checkpoint-final", state={})
        await service(home, FakeScorer()).turn()
        found = {Path(str(line["path"])).name: (line["state"], line["step"]) for line in lines(home)}
        assert found == {
            "checkpoint-5": ("scored", 1),
            "checkpoint-6": ("scored", 6),
            "checkpoint-final": ("refused", None),
        }

    async def test_a_corrupt_one_is_refused_once_and_looked_at_again_when_it_changes(self, home: Home) -> None:
        scorer, store = FakeScorer(), ComparisonStore(database())
        path = home.write(1)
        config = (path / "config.json").read_text()
        (path / "config.json").unlink()
        compared = service(home, scorer, store)
        ranked: list[Board] = []
        compared.on_ranked(ranked.append)
        for _ in range(2):
            await compared.turn()
        assert (len(ranked), scorer.asked) == (1, [])
        assert "config.json" in str(lines(home)[0]["reason"])
        (path / "config.json").write_text(config)
        await compared.turn()
        assert scorer.asked == ["checkpoint-1"]

    async def test_without_a_test_set_it_is_refused_until_there_is_one(self, home: Home) -> None:
        (home.folder / "test_set.jsonl").unlink()
        home.write(1)
        compared = service(home, FakeScorer())
        await compared.turn()
        assert "Nobody knows a test set" in str(lines(home)[0]["reason"])
        home.test_set("a", "b")
        await compared.turn()
        assert lines(home)[0]["state"] == "scored"

    async def test_another_test_set_has_all_scored_again(self, home: Home) -> None:
        scorer = FakeScorer()
        home.write(1)
        compared = service(home, scorer)
        await compared.turn()
        home.test_set("a", "b")
        await compared.turn()
        assert scorer.asked == ["checkpoint-1", "checkpoint-1"]

    async def test_a_job_that_fails_is_tried_a_bounded_number_of_times_and_a_refusal_once(self, home: Home) -> None:
        outcomes: dict[str, str | Exception] = {
            "checkpoint-1": RuntimeError("the node is gone"),
            "checkpoint-2": "It has no tokenizer.",
        }
        scorer = FakeScorer(lambda path: outcomes[path.name])
        home.write(1)
        home.write(2)
        compared = service(home, scorer)
        for _ in range(MAX_ATTEMPTS + 2):
            await compared.turn()
        assert scorer.asked.count("checkpoint-1") == MAX_ATTEMPTS
        assert scorer.asked.count("checkpoint-2") == 1
        found = {line["step"]: (line["state"], line["reason"]) for line in lines(home)}
        assert found == {
            1: ("failed", "Its scoring failed: the node is gone"),
            2: ("refused", "It has no tokenizer."),
        }

    async def test_a_score_of_other_weights_than_were_looked_at_is_no_score(self, home: Home) -> None:
        def says(path: Path) -> None:
            (path / "trainer_state.json").write_text('{"global_step": 9}')

        home.write(1)
        scorer = FakeScorer(says)
        await service(home, scorer).turn()
        assert scorer.asked == ["checkpoint-1", "checkpoint-1"]  # the change is another checkpoint, and scored as such
        assert (lines(home)[0]["state"], lines(home)[0]["step"]) == ("scored", 9)

    async def test_the_best_that_is_better_than_what_serves_is_advised(self, home: Home) -> None:
        scorer = FakeScorer()
        scorer.right = {"checkpoint-1": "-" * 8 + "++", "checkpoint-2": "+" * 10, "checkpoint-3": "-" * 7 + "+++"}
        home.deploy(home.write(1))
        home.write(2)
        home.write(3)
        compared = service(home, scorer)
        await compared.turn()
        advice = compared.board("tiny").advice
        assert advice is not None
        assert advice.sentence.startswith("Better: roll out step 2")
        assert [(line["step"], line["rank"], line["deployed"]) for line in lines(home)] == [
            (2, 1, False),
            (3, 2, False),
            (1, 3, True),
        ]

    async def test_the_file_is_made_again_from_the_store(self, home: Home) -> None:
        home.write(1)
        compared = service(home, FakeScorer())
        await compared.turn()
        before = lines(home)
        (home.path / "status" / "model_comparisons.json").unlink()
        await compared.turn()
        assert lines(home) == before

    async def test_one_that_is_gone_leaves_the_ranking_and_is_not_forgotten(self, home: Home) -> None:
        store = ComparisonStore(database())
        path = home.write(1)
        compared = service(home, FakeScorer(), store)
        await compared.turn()
        path.rename(home.path / "elsewhere")
        await compared.turn()
        assert compared.boards() == ()
        assert list(store.records(gone=True)) == [str(path)]

    async def test_its_span_says_what_was_scored_and_which_run_made_it(self, home: Home) -> None:
        path = home.write(1)
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        manifest = json.loads((tiny_checkpoint() / "headroom_manifest.json").read_text())
        files = verify_checkpoint(path).files
        del manifest["seal"]
        manifest |= {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01", "step": 1}
        manifest["files"] = {name: entry.model_dump() for name, entry in files.items()}
        (path / "headroom_manifest.json").write_text(json.dumps(manifest))
        with traced() as seen:
            await ComparisonService(
                home=home.path,
                store=ComparisonStore(database()),
                scorer=FakeScorer(),
                clock=lambda: 1.0,
                exporting=seen.exporting,
            ).turn()
        assert seen.facts("compare tiny")["headroom.accuracy"] == 1.0
        assert [format_trace_id(link.context.trace_id) for link in seen.span("compare tiny").links] == [trace_id]

    async def test_the_command_shows_them_best_first_with_what_to_do(self, home: Home) -> None:
        scorer = FakeScorer()
        scorer.right = {"checkpoint-1": "-" * 10, "checkpoint-2": "+" * 10}
        home.deploy(home.write(1))
        home.write(2)
        home.write(3, name="checkpoint-final", state={})
        await service(home, scorer).turn()
        shown = CliRunner().invoke(main, ["comparisons", "--home", str(home.path)]).output
        assert shown.index("Better: roll out step 2") < shown.index("serves") < shown.index("refused: Nobody knows")
