from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.training.answering import answer
from serve_app.training.evaluate import evaluate, wilson_interval
from serve_app.training.tasks import TaskKind, held_out_tasks
from tests.serve_app.training.tiny import tiny_checkpoint


class TestEvaluation:
    def test_right_answers_are_counted_in_all_and_by_kind(self) -> None:
        tasks = held_out_tasks(2)
        texts = [task.answer if task.kind is TaskKind.SUM else "no" for task in tasks]
        result = evaluate(zip(tasks, texts, strict=True))
        assert (result.total.num_right, result.total.num_asked) == (2, len(tasks))
        assert result.by_kind[TaskKind.SUM].accuracy == 1.0
        assert result.by_kind[TaskKind.REVERSE].accuracy == 0.0

    def test_kinds_that_were_not_asked_are_not_named(self) -> None:
        tasks = held_out_tasks(1)[:1]
        assert list(evaluate([(tasks[0], "")]).by_kind) == [tasks[0].kind]

    def test_nothing_asked_is_no_error(self) -> None:
        assert evaluate([]).total.accuracy == 0.0


class TestInterval:
    def test_a_value_from_a_book(self) -> None:
        """Newcombe (1998), table I: 81 of 263."""
        assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)

    @given(asked=st.integers(1, 10_000), share=st.floats(0, 1))
    def test_it_holds_the_share_and_stays_between_none_and_all(self, asked: int, share: float) -> None:
        right = int(share * asked)
        low, high = wilson_interval(right, asked)
        assert 0 <= low <= right / asked + 1e-12
        assert right / asked - 1e-12 <= high <= 1


class TestAnswering:
    def test_each_task_gets_its_own_answer_whatever_it_is_asked_with(self) -> None:
        from transformers import AutoTokenizer, LlamaForCausalLM

        model = LlamaForCausalLM.from_pretrained(str(tiny_checkpoint()))
        tokenizer = AutoTokenizer.from_pretrained(str(tiny_checkpoint()))
        tasks = held_out_tasks(2)
        together = answer(model, tokenizer, tasks)
        assert together == [answer(model, tokenizer, [task])[0] for task in tasks]
