from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain, cycle, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app.training.collapse import ENTROPY_WINDOW, FEWEST, WINDOW, Watch, slope
from serve_app.training.curriculum import EVEN
from serve_app.training.parents import Parent, open_parent
from serve_app.training.policy import (
    advantages,
    clipped_loss,
    draw_answers,
    log_probabilities,
    mean_entropy,
    of_drawn,
)
from serve_app.training.reinforced import Reinforced, ReinforceSettings
from serve_app.training.reward import reward
from serve_app.training.tasks import Task, TaskKind, held_out_tasks
from tests.serve_app.training.job_world import home_with_tiny, run
from tests.serve_app.training.tiny import tiny_checkpoint

REVERSE = Task(kind=TaskKind.REVERSE, prompt="Reverse the word: planet", answer="tenalp", subject="word planet")
SETTINGS = ReinforceSettings(
    num_steps=50, learning_rate=1e-3, entropy_weight=0.0, clip_range=0.2, num_tasks=2, num_answers=4
)


def for_letters(_task: Task, text: str, *, ended: bool) -> float:
    """The part of the answer that are small letters, whether right or not."""
    return sum(one.islower() for one in text) / max(1, len(text))


def opened() -> Parent:
    return open_parent(tiny_checkpoint(), device=torch.device("cpu"))


class TestReward:
    def test_only_the_right_answer_is_worth_everything(self) -> None:
        assert reward(REVERSE, "tenalp", ended=True) == 1.0

    @given(text=st.text(alphabet="tenalpTENALP123 .", max_size=12))
    @example(text="tenalx")
    @example(text="tenalpx")
    def test_every_other_is_worth_less_than_half(self, text: str) -> None:
        assert text.strip() == REVERSE.answer or 0 <= reward(REVERSE, text, ended=True) < 0.5

    def test_more_letters_in_place_are_worth_more(self) -> None:
        worth = [reward(REVERSE, text, ended=True) for text in ("TENALP", "xxxxxx", "tenxxx", "tenalx", "tenalp")]
        assert worth == sorted(set(worth))

    def test_an_answer_that_never_ends_is_worth_nothing(self) -> None:
        assert reward(REVERSE, "tenalp", ended=False) == 0.0


class TestTheObjective:
    def test_a_group_that_is_all_alike_teaches_nothing(self) -> None:
        assert advantages(torch.tensor([1.0, 1.0, 0.0, 1.0]), num_answers=2)[:2].tolist() == [0.0, 0.0]

    @given(rewards=st.lists(st.floats(0, 1), min_size=4, max_size=4))
    def test_advantages_of_a_group_cancel_and_keep_the_order_of_rewards(self, rewards: list[float]) -> None:
        gain = advantages(torch.tensor(rewards), num_answers=4)
        assert gain.sum().abs() < 1e-3
        order = sorted(range(4), key=lambda index: rewards[index])
        assert all(gain[one] <= gain[two] + 1e-6 for one, two in pairwise(order))

    @pytest.mark.parametrize(("ratio", "gain", "moves"), [(1.0, 1, True), (1.3, 1, False), (0.7, -1, False)])
    def test_beyond_the_clip_range_nothing_pulls_any_more(self, ratio: float, gain: int, moves: bool) -> None:
        new = torch.tensor([[math.log(ratio)]], requires_grad=True)
        ones = torch.ones(1, 1)
        clipped_loss(new, torch.zeros(1, 1), torch.tensor([float(gain)]), ones, clip_range=0.2).backward()
        assert new.grad is not None
        assert bool(new.grad.abs().sum() > 0) is moves

    def test_what_went_too_far_the_wrong_way_is_pulled_back(self) -> None:
        new = torch.tensor([[math.log(0.5)]], requires_grad=True)
        clipped_loss(new, torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1), clip_range=0.2).backward()
        assert new.grad is not None
        assert new.grad.item() < 0  # a step against the gradient makes it likelier again


class TestDrawing:
    def test_padding_on_the_left_changes_no_probability(self) -> None:
        """The same answers, judged alone and beside longer prompts."""
        held = opened()
        tasks = held_out_tasks(1)
        torch.manual_seed(0)
        drawn = draw_answers(held.model, held.tokenizer, tasks, num_answers=2)
        together = of_drawn(log_probabilities(held.model, drawn), drawn)
        for row in range(len(drawn.ids)):
            first = int(drawn.seen[row].long().argmax())
            alone = replace(
                drawn,
                ids=drawn.ids[row : row + 1, first:],
                seen=drawn.seen[row : row + 1, first:],
                learned=drawn.learned[row : row + 1],
            )
            single = of_drawn(log_probabilities(held.model, alone), alone)
            kept = drawn.learned[row]
            assert torch.allclose(single[0][kept], together[row][kept], atol=1e-4)

    def test_an_answer_is_learned_up_to_and_with_its_end(self) -> None:
        held = opened()
        torch.manual_seed(1)
        drawn = draw_answers(held.model, held.tokenizer, held_out_tasks(2), num_answers=4)
        end = held.tokenizer.convert_tokens_to_ids("<|end|>")
        made = drawn.ids[:, -drawn.learned.shape[1] :]
        for ids, learned, ended in zip(made.tolist(), drawn.learned.tolist(), drawn.ended, strict=True):
            expected = ids.index(end) + 1 if ended else len(ids)
            assert learned == [place < expected for place in range(len(ids))]

    def test_entropy_lies_between_nothing_and_all_alike(self) -> None:
        alike = torch.full((1, 3, 320), -math.log(320))
        assert mean_entropy(alike, torch.ones(1, 3)).item() == pytest.approx(math.log(320))


class TestAnUpdate:
    def test_it_makes_rewarded_answers_likelier(self) -> None:
        held = opened()
        settings = replace(SETTINGS, learning_rate=2e-2, num_answers=8)
        pupil = Reinforced(held.model, held.tokenizer, settings, data_seed=1, curriculum=EVEN, reward=for_letters)
        told = [pupil.step()["reward"] for _ in range(20)]
        assert sum(told[-5:]) > 1.3 * sum(told[:5])

    def test_its_figures_are_reported_live(self, tmp_path: Path) -> None:
        home = home_with_tiny(tmp_path)
        channel = run(home, kind="reinforce", steps=10, num_tasks=2, num_answers=2)
        assert {"loss", "reward", "reward_average", "entropy"} <= channel.progress[-1].metrics.keys()
        assert {"reward_average_slope", "gain", "settings"} <= channel.result.keys()


def watched(rewards: list[float], *, entropy: float = 1.0) -> Watch:
    watch = Watch()
    for one in rewards:
        watch = watch.after(reward=one, entropy=entropy)
    return watch


class TestCollapse:
    def test_a_rising_reward_goes_on(self) -> None:
        assert watched([index / 300 for index in range(300)]).reason_to_stop() == ""

    def test_a_fallen_reward_stops_it(self) -> None:
        assert "reward fell" in watched([0.5] * 60 + [0.1] * 20).reason_to_stop()

    def test_vanished_entropy_stops_it(self) -> None:
        assert "entropy" in watched([0.5] * FEWEST, entropy=0.0).reason_to_stop()

    def test_one_certain_update_does_not(self) -> None:
        watch = watched([0.5] * FEWEST)
        assert watch.after(reward=0.5, entropy=0.0).reason_to_stop() == ""
        assert ENTROPY_WINDOW > 1

    @given(rewards=st.lists(st.floats(0, 1), max_size=FEWEST - 1))
    def test_nothing_is_judged_early(self, rewards: list[float]) -> None:
        assert watched(rewards, entropy=0.0).reason_to_stop() == ""

    @given(rewards=st.lists(st.floats(0, 1), min_size=WINDOW + 1, max_size=WINDOW + 50))
    def test_the_average_is_of_the_last_hundred(self, rewards: list[float]) -> None:
        last = rewards[-WINDOW:]
        assert watched(rewards).average == pytest.approx(sum(last) / len(last))

    def test_the_best_weights_are_what_is_kept(self) -> None:
        """The reward falls after so many updates: what is left afterwards is from before.

        Of two answers one is always better, so that every update moves the weights.
        """
        held, best = opened(), dict[str, torch.Tensor]()
        paid = chain([1.0, 0.8] * (FEWEST + 2), cycle([0.2, 0.0]))
        pupil = Reinforced(
            *(held.model, held.tokenizer, replace(SETTINGS, num_tasks=1, num_answers=2)),
            data_seed=1,
            curriculum=EVEN,
            reward=lambda _task, _text, *, ended: next(paid),
        )
        while not pupil.stopped_because:
            pupil.step()
            if pupil.num_done == FEWEST + 2:
                best = {name: tensor.clone() for name, tensor in held.model.state_dict().items()}
        assert "reward fell" in pupil.stopped_because
        assert all(torch.equal(held.model.state_dict()[name], tensor) for name, tensor in best.items())


class TestSlope:
    @given(first=st.floats(-1, 1), each=st.floats(-1, 1), num=st.integers(2, 50))
    def test_it_is_that_of_a_straight_line(self, first: float, each: float, num: int) -> None:
        assert slope([first + each * place for place in range(num)]) == pytest.approx(each, abs=1e-9)

    def test_one_point_has_none(self) -> None:
        assert slope([1.0]) == 0.0
