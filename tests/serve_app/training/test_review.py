from __future__ import annotations

from serve_app.training.review import FEWEST_RUNS, ReviewedRun, best_values, review, run_of


def tried(gain: float, *, rate: float = 1e-3, entropy: float = 0.003, collapsed: bool = False) -> ReviewedRun:
    return ReviewedRun(learning_rate=rate, entropy_weight=entropy, clip_range=0.2, gain=gain, collapsed=collapsed)


class TestReview:
    def test_each_value_of_each_setting_is_one_row_best_first(self) -> None:
        rows = review([tried(0.1), tried(0.3, rate=2e-3), tried(0.15, entropy=0.0, collapsed=True)])
        assert [(row.setting, row.value) for row in rows] == [
            ("learning_rate", 2e-3),
            ("learning_rate", 1e-3),
            ("entropy_weight", 0.003),
            ("entropy_weight", 0.0),
            ("clip_range", 0.2),
        ]
        assert [row.num_collapsed for row in rows] == [0, 1, 0, 1, 1]

    def test_a_value_tried_too_seldom_is_never_advised(self) -> None:
        often = [tried(0.1) for _ in range(FEWEST_RUNS)]
        assert best_values(review([*often, tried(0.9, rate=2e-3)])) == {}
        better = [tried(0.2, rate=2e-3) for _ in range(FEWEST_RUNS)]
        assert best_values(review([*often, *better])) == {"learning_rate": 2e-3}

    def test_nothing_tried_is_an_empty_table(self) -> None:
        assert review([]) == ()

    def test_a_run_is_read_from_what_its_job_told(self) -> None:
        settings = {"learning_rate": 1e-3, "entropy_weight": 0.003, "clip_range": 0.2, "num_tasks": 16}
        told = {"kind": "reinforce", "settings": settings, "gain": 0.1, "stopped_because": ""}
        assert run_of(told) == tried(0.1)
        assert run_of({"kind": "train"}) is None
        assert run_of({**told, "gain": None}) is None
