"""What stays idle of free room, by futures short enough to follow by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from placement.ask import Ask
from placement.lookahead import CPU_STEP_MILLIS, Lookahead
from placement.mix import Mix, pressure_by_type


def ask(*, cores: int = 1, num_devices: int = 1, millis: int = 1000, types: tuple[str, ...] = ()) -> Ask:
    return Ask(cpu_millis=1000 * cores, num_devices=num_devices, device_millis=millis, device_types=types)


CORES_ONLY = Ask(cpu_millis=4000)


def waste(*future: Ask, gaps: tuple[int, ...], cores: float = 100) -> float:
    return Lookahead((future,), "a").waste_millis(gaps, round(1000 * cores))


class TestWaste:
    def test_a_gap_that_is_asked_for_is_no_waste(self) -> None:
        assert waste(ask(millis=190), gaps=(190,)) == 0

    def test_what_no_ask_takes_is_waste(self) -> None:
        assert waste(ask(millis=810), gaps=(70, 1000)) == 70 + 190

    def test_a_part_is_taken_from_the_tightest_device(self) -> None:
        assert waste(ask(millis=300), ask(millis=700), gaps=(300, 700)) == 0

    def test_devices_without_cores_are_waste(self) -> None:
        futures = (ask(cores=8),) * 4
        assert [waste(*futures, gaps=(1000,) * 4, cores=cores) for cores in (0, 8, 16, 32)] == [4000, 3000, 2000, 0]

    def test_asks_for_cores_alone_take_them_from_the_devices(self) -> None:
        assert waste(CORES_ONLY, ask(cores=6), gaps=(1000,), cores=8) == 1000
        assert waste(ask(cores=6), CORES_ONLY, gaps=(1000,), cores=8) == 0

    def test_several_devices_are_taken_together_or_not_at_all(self) -> None:
        assert waste(ask(num_devices=2), gaps=(500, 1000, 1000)) == 500
        assert waste(ask(num_devices=2), ask(), gaps=(500, 900, 1000)) == 1400

    def test_it_is_the_mean_over_the_futures(self) -> None:
        lookahead = Lookahead(((ask(millis=810),), (ask(millis=400),)), "a")
        assert lookahead.waste_millis((1000,), 9000) == (190 + 600) / 2

    def test_between_two_steps_of_cores_it_is_drawn_straight(self) -> None:
        future = (ask(cores=CPU_STEP_MILLIS // 1000), ask(cores=1))
        full, none = waste(*future, gaps=(1000,), cores=0), waste(*future, gaps=(1000,), cores=CPU_STEP_MILLIS / 1000)
        assert waste(*future, gaps=(1000,), cores=CPU_STEP_MILLIS / 4000) == (3 * full + none) / 4

    def test_without_futures_all_is_waste(self) -> None:
        assert Lookahead((), "a").waste_millis((10, 1000), 9000) == 1010

    def test_asks_for_another_type_do_not_count(self) -> None:
        assert waste(ask(types=("b",)), gaps=(1000,)) == 1000


class TestMix:
    def test_futures_hold_each_ask_in_its_exact_share(self) -> None:
        mix = Mix([ask()] * 3 + [CORES_ONLY])
        futures = mix.futures(num_futures=5, length=8, seed=1)
        assert [len(future) for future in futures] == [8] * 5
        assert Counter(one for future in futures for one in future) == {ask(): 30, CORES_ONLY: 10}

    def test_the_seed_alone_decides_their_order(self) -> None:
        mix = Mix([ask()] * 3 + [CORES_ONLY])
        one, same, other = (mix.futures(num_futures=5, length=8, seed=seed) for seed in (1, 1, 2))
        assert one == same
        assert one != other

    def test_before_the_first_arrival_there_are_none(self) -> None:
        assert Mix().futures(num_futures=5, length=8, seed=1) == ()

    def test_host_memory_tells_no_two_asks_apart(self) -> None:
        mix = Mix([Ask(cpu_millis=1, host_memory_bytes=5), Ask(cpu_millis=1, host_memory_bytes=6)])
        assert mix.counts == {Ask(cpu_millis=1): 2}


class TestPressure:
    def test_without_named_types_it_is_one_everywhere(self) -> None:
        assert pressure_by_type(Mix([ask()]), {"a": 3, "b": 1}) == {"a": 1.0, "b": 1.0}

    def test_asks_that_name_a_small_type_press_on_it(self) -> None:
        pressure = pressure_by_type(Mix([ask(), ask(types=("b",))]), {"a": 3, "b": 1})
        assert pressure == {"a": 0.5, "b": 2.5}

    def test_asks_for_a_type_that_is_not_here_press_on_nothing(self) -> None:
        assert pressure_by_type(Mix([ask(types=("c",))]), {"a": 3}) == {"a": 0.0}

    def test_an_empty_mix_presses_on_nothing(self) -> None:
        assert pressure_by_type(Mix([CORES_ONLY]), {"a": 3}) == pytest.approx({"a": 0.0})
