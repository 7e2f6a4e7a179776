"""What is asked of an engine to score a checkpoint, what is made of its answers, and whose questions they are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from placement.codec import to_json_value
from serve_app.compare.measure import Reply, answer_loss, mean_loss, measure
from serve_app.compare.questions import Question, has_form, questions_of
from serve_app.compare.run_score import ScoreConfig, outcome_of
from serve_app.compare.score import CheckpointScore
from serve_app.engines.protocol import Endpoint, Stream, Unary
from serve_app.errors import BadAnswer, CheckpointRefused
from serve_app.jobs.messages import Failed, Result, line_of, read_line
from serve_app.training.checkpoints import verify_checkpoint
from tests.serve_app.compare.builders import score
from tests.serve_app.training.tiny import tiny_checkpoint

QUESTIONS = tuple(Question(prompt=f"Say {word}", answer=word) for word in ("ab", "cd", "ef", "7"))


class Speaking:
    """An engine as vLLM answers: tokens are characters, and every token of a prompt has the same log-probability."""

    def __init__(self, says: Mapping[str, str], *, likely: float | None = -0.25, status: int = 200) -> None:
        self._says = says
        self._likely = likely
        self._status = status

    async def answer(self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str]) -> Unary | Stream:
        asked = orjson.loads(body)
        ids = [ord(letter) for message in asked["messages"] for letter in f"{message['content']}|"]
        told: dict[str, Any] = {"prompt_token_ids": ids}
        if "prompt_logprobs" in asked and self._likely is not None:
            told["prompt_logprobs"] = [None, *({str(one): {"logprob": self._likely, "rank": 1}} for one in ids[1:])]
        text = self._says.get(asked["messages"][0]["content"], "")
        choice = {"message": {"content": text}, "logprobs": {"content": [{"token": "x", "logprob": -1.0}]}}
        return Unary(self._status, orjson.dumps({"choices": [choice], **told}))


async def measured(engine: Speaking) -> CheckpointScore:
    ticks = iter(range(10_000))
    return await measure(
        engine,
        verify_checkpoint(tiny_checkpoint()),
        model="tiny",
        step=4,
        questions=QUESTIONS,
        concurrency=2,
        clock=lambda: float(next(ticks)),
        on_answer=lambda: None,
    )


class TestMeasuring:
    async def test_each_question_counts_in_its_order(self) -> None:
        found = await measured(Speaking({"Say ab": "ab", "Say cd": "nope", "Say ef": " ef\n", "Say 7": "seven"}))
        assert found.right == (True, False, True, False)
        assert found.accuracy == 0.5
        assert found.format_share == 0.75
        assert found.step == 4

    async def test_the_loss_is_of_the_tokens_of_right_answers_whatever_was_said(self) -> None:
        assert (await measured(Speaking({}))).loss == pytest.approx(0.25)
        assert (await measured(Speaking({}, likely=None))).loss is None

    async def test_an_engine_that_refuses_is_no_score(self) -> None:
        with pytest.raises(BadAnswer):
            await measured(Speaking({}, status=500))

    def test_the_loss_of_an_answer_begins_where_the_question_ends(self) -> None:
        logprobs = [None, {2: -5.0}, {3: -1.0}, {4: -3.0}]
        assert answer_loss([1, 2], [1, 2, 3, 4], logprobs) == (4.0, 2)
        assert answer_loss([1, 9], [1, 2, 3, 4], logprobs) is None  # the template writes it otherwise
        assert answer_loss([1, 2], [1, 2], logprobs[:2]) is None
        assert answer_loss([1, 2], [1, 2, 3, 4], [None, None, {3: math.nan}, {4: -1.0}]) is None

    def test_one_answer_that_was_not_measured_leaves_no_loss(self) -> None:
        known = Reply(text="", latency_s=0.0, loss=2.0, num_tokens=4)
        assert mean_loss([known, known]) == 0.5
        assert mean_loss([known, Reply(text="", latency_s=0.0, loss=None, num_tokens=0)]) is None

    def test_a_score_travels_in_a_result(self) -> None:
        one = score("+-")
        said = read_line(line_of(Result(value={"score": to_json_value(one)})))
        assert isinstance(said, Result)
        assert outcome_of(said) == one

    def test_a_failed_job_says_why_the_checkpoint_has_no_score(self) -> None:
        assert outcome_of(Failed(what="It is cut.", advice="Copy it again.")) == "It is cut. Copy it again."

    def test_a_job_is_configured_in_json(self) -> None:
        config = ScoreConfig.model_validate_json('{"checkpoint": "/x", "model": "m", "kv_cache_bytes": 5, "limit": 3}')
        assert (config.checkpoint, config.limit) == (Path("/x"), 3)


class TestForm:
    @pytest.mark.parametrize(
        ("answer", "text", "has"),
        [
            ("12", "97", True),
            ("12", "about 97", False),
            ("word", "drow", True),
            ("word", "DROW", False),
            ("WORD", "DROW", True),
            ("x", "y", True),
            ("x", "yz", False),
            ("It is so.", "It is not.", True),
            ("It is so.", "", False),
            ("It is so.", "one\ntwo", False),
        ],
    )
    def test_an_answer_has_the_form_of_the_right_one(self, answer: str, text: str, has: bool) -> None:
        assert has_form(Question(prompt="?", answer=answer), text) is has


class TestQuestions:
    def test_our_own_models_are_asked_what_our_trainer_holds_out(self, tmp_path: Path) -> None:
        assert len(questions_of(tmp_path, is_ours=True)) == 320
        assert len({question.kind for question in questions_of(tmp_path, is_ours=True, limit=8)}) == 8

    def test_a_file_comes_first(self, tmp_path: Path) -> None:
        lines = [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d", "max_tokens": 40}]
        (tmp_path / "test_set.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
        assert questions_of(tmp_path, is_ours=True) == (
            Question(prompt="a", answer="b"),
            Question(prompt="c", answer="d", max_tokens=40),
        )

    @pytest.mark.parametrize(
        "text", ["", "no json", '{"prompt": "a"}', '{"prompt": "a", "answer": "b", "x": 1}', "\xff"]
    )
    def test_a_file_that_holds_no_questions_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "test_set.jsonl").write_bytes(text.encode("latin-1"))
        with pytest.raises(CheckpointRefused, match="cannot be used"):
            questions_of(tmp_path, is_ours=True)

    def test_nobody_guesses_a_test_set(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointRefused, match="Nobody knows a test set"):
            questions_of(tmp_path, is_ours=False)
