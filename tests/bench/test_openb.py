"""The openb experiment: scores by hand, the stream of a seed, and the command line on a trace of a few lines."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from placement.ask import Ask, EmptyNode, Seat
from placement.rooms import Option, Room
from tests.bench.openb import main
from tests.bench.openb_rivals import Fgd, best_fit
from tests.bench.openb_run import Reading, alloc_pct_at, run
from tests.bench.openb_trace import BadTrace, read_nodes, read_pods, stream

NODES = "sn,cpu_milli,memory_mib,gpu,model\nn0,32000,1000,2,T4\nn1,16000,1000,2,P100\nn2,8000,1000,1,T4\n"
PODS = "\n".join(
    [
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec",
        "p0,4000,10,1,500,",
        "p1,4000,10,1,1000,T4|P100",
        "p2,2000,10,0,0,",
        "p3,4000,10,1,300,T4",
        "p4,4000,10,2,1000,",
    ]
)
PUBLISHED = {"results": {"tiny": {"FGD": {"alloc_pct_at_100": 61.5, "alloc_pct_at_130": 62.25, "seeds": 10}}}}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "nodes.csv").write_text(NODES, encoding="utf-8")
    (tmp_path / "openb_pod_list_tiny.csv").write_text(PODS, encoding="utf-8")
    (tmp_path / "published.json").write_text(json.dumps(PUBLISHED), encoding="utf-8")
    return ["--nodes", str(tmp_path / "nodes.csv"), "--pods", str(tmp_path / "openb_pod_list_tiny.csv")]


def room(*gaps: int, cores: int, type_: str = "a") -> Room:
    return Room(type_, gaps, 1000 * cores, 0)


def part(millis: int, *, cores: int) -> Ask:
    return Ask(cpu_millis=1000 * cores, num_devices=1, device_millis=millis)


class TestBestFit:
    def test_its_score_falls_with_what_is_left_of_cores_and_devices(self) -> None:
        """Left are 96 of 128 cores and 1500 of 8000 millis: 100 (1 - 0.375 - 0.09375) = 53.125."""
        assert best_fit(room(500, 1000, 1000, cores=100), part(1000, cores=4)) == Option(53, 1000)

    def test_it_takes_a_part_from_the_tightest_device_that_has_it(self) -> None:
        assert best_fit(room(300, 500, 1000, cores=1), part(400, cores=0)).gap == 500


class TestFgd:
    PODS = (part(600, cores=4), part(600, cores=4), part(1000, cores=10), Ask(cpu_millis=1000))

    def fgd(self) -> Fgd:
        nodes = [EmptyNode(name="n", device_type="a", num_devices=2, cpu_millis=9000, host_memory_bytes=0)]
        return Fgd(nodes, self.PODS)

    def test_a_fragment_is_what_typical_pods_cannot_use(self) -> None:
        """Half the pods want 600: 500 is too small. A quarter lacks the cores, a quarter wants no device: all of it."""
        assert self.fgd().fragment_millis("a", (500, 1000), 9000) == 0.5 * 500 + 0.25 * 1500 + 0.25 * 1500

    def test_its_score_is_the_sigmoid_of_what_fragments_shrink_by(self) -> None:
        """Of 500 + 1000 remain 500 + 400, on which nothing typical runs: 900, after 1000. 100 sigmoid(0.1) = 52.5."""
        assert self.fgd().option(room(500, 1000, cores=9), part(600, cores=4)) == Option(52, 1000)
        assert int(100 / (1 + math.exp(-0.1))) == 52

    def test_it_takes_a_part_from_the_device_with_the_best_score(self) -> None:
        """From 700 nothing useful is lost; from 1000 a device for the 1000 of a quarter of the pods, given cores."""
        assert self.fgd().option(room(700, 1000, cores=20), part(100, cores=0)).gap == 700

    def test_what_is_typical_covers_95_percent_of_all_pods(self) -> None:
        """The rare kind is left out, so a gap that only it could use is a fragment for everyone."""
        nodes = [EmptyNode(name="n", device_type="a", num_devices=1, cpu_millis=9000, host_memory_bytes=0)]
        fgd = Fgd(nodes, [part(600, cores=1)] * 96 + [part(100, cores=1)] * 4)
        assert fgd.fragment_millis("a", (500,), 9000) == 500

    def test_types_count(self) -> None:
        nodes = [EmptyNode(name="n", device_type="a", num_devices=1, cpu_millis=9000, host_memory_bytes=0)]
        fgd = Fgd(nodes, [Ask(cpu_millis=0, num_devices=1, device_millis=1000, device_types=("b",))])
        assert [fgd.fragment_millis(type_, (1000,), 9000) for type_ in ("a", "b")] == [1000, 0]


class TestStream:
    def test_pods_arrive_until_130_percent_of_all_devices_are_asked_for(self, files: list[str]) -> None:
        nodes, pods = read_nodes(Path(files[1])), read_pods(Path(files[3]))
        one = stream(nodes, pods, 42)
        asked = sum(ask.total_device_millis for ask in one.arrivals)
        assert 1.3 * 5000 - 2000 < asked <= 1.3 * 5000
        assert Counter(one.arrivals[: len(pods)]) == Counter(pods)
        assert set(one.arrivals) == set(pods)

    def test_of_too_many_pods_some_do_not_arrive(self, files: list[str]) -> None:
        nodes, pods = read_nodes(Path(files[1])), read_pods(Path(files[3]))
        one = stream(nodes, pods * 9, 42)
        assert sum(ask.total_device_millis for ask in one.arrivals) <= 1.3 * 5000
        assert not Counter(one.arrivals) - Counter(pods * 9)

    def test_the_seed_alone_decides(self, files: list[str]) -> None:
        nodes, pods = read_nodes(Path(files[1])), read_pods(Path(files[3]))
        assert stream(nodes, pods, 42) == stream(nodes, pods, 42)
        assert stream(nodes, pods, 42) != stream(nodes, pods, 43)

    def test_columns_are_read_as_what_they_mean(self, files: list[str]) -> None:
        assert read_nodes(Path(files[1]))[1] == EmptyNode(
            name="n1", device_type="P100", num_devices=2, cpu_millis=16000, host_memory_bytes=1000 << 20
        )
        assert read_pods(Path(files[3]))[1:3] == (
            Ask(
                cpu_millis=4000,
                host_memory_bytes=10 << 20,
                num_devices=1,
                device_millis=1000,
                device_types=("P100", "T4"),
            ),
            Ask(cpu_millis=2000, host_memory_bytes=10 << 20),
        )


class TestReading:
    READINGS = tuple(
        Reading(arrived_pct=arrived, alloc_pct=alloc)
        for arrived, alloc in ((50, 50), (99.6, 90), (100.4, 92), (100.6, 95))
    )

    def test_it_is_the_mean_where_arrived_demand_rounds_to_it(self) -> None:
        assert alloc_pct_at(self.READINGS, 100) == 91

    def test_where_none_rounds_to_it_the_last_before_counts(self) -> None:
        assert alloc_pct_at(self.READINGS, 130) == 95
        assert alloc_pct_at(self.READINGS, 75) == 50

    def test_what_is_refused_is_not_allocated(self, files: list[str]) -> None:
        one = stream(read_nodes(Path(files[1])), read_pods(Path(files[3])), 42)
        seated, refused = run(one, lambda ask: Seat(node="n0", devices=())), run(one, lambda ask: None)
        assert seated.alloc_pct_at_130 == sum(ask.total_device_millis for ask in one.arrivals) / 50
        assert refused.alloc_pct_at_130 == 0


class TestCommand:
    def test_json_ends_with_one_line_of_results(self, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*files, "--seeds", "1,2", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert set(answer) == {"results", "ms_per_decision"}
        assert set(answer["results"]) == {"headroom", "fgd", "bestfit"}
        for figures in answer["results"].values():
            assert 0 < figures["alloc_pct_at_100"] <= figures["alloc_pct_at_130"] <= 100
        assert answer["ms_per_decision"] > 0

    def test_the_table_has_the_published_figures_beside_ours(
        self, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*files, "--seeds", "1", "--published", str(tmp_path / "published.json"), "--moves"]) == 0
        rows = capsys.readouterr().out.splitlines()[2:6]
        assert [row.split()[0] for row in rows] == ["headroom", "headroom_moves", "fgd", "bestfit"]
        assert [row.endswith("61.50 / 62.25") for row in rows] == [False, False, True, False]

    def test_learning_as_it_goes_and_leaving_the_others_out(
        self, files: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*files, "--seeds", "1", "--headroom-only", "--learn", "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)["results"]) == {"headroom"}

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ("num_gpu", "gpus", "lacks the column(s) num_gpu"),
            ("p2,2000", "p2,-2000", "'cpu_milli' is '-2000'; expected a whole number, 0 or more"),
            ("p2,2000", "p2,many", "'cpu_milli' is 'many'"),
            ("p2,2000", "p2,inf", "'cpu_milli' is 'inf'"),
            ("p0,4000,10,1,500,", "p0,4000,10", "'num_gpu' is ''"),
            ("1,500", "1,1500", "expected 1 to 1000"),
            ("2,1000", "2,500", "Only a single device can be taken in part"),
        ],
    )
    def test_a_bad_pods_file_is_told_in_a_sentence(
        self, files: list[str], capsys: pytest.CaptureFixture[str], old: str, new: str, sentence: str
    ) -> None:
        Path(files[3]).write_text(PODS.replace(old, new), encoding="utf-8")
        assert main([*files, "--json"]) == 2
        told = capsys.readouterr()
        assert sentence in told.err
        assert told.err.count("\n") == 1
        assert told.out == ""

    @pytest.mark.parametrize("text", ["", NODES.replace("model", "kind"), NODES.replace("n1", "n0"), "a\0b"])
    def test_a_bad_nodes_file_is_told_in_a_sentence(
        self, files: list[str], capsys: pytest.CaptureFixture[str], text: str
    ) -> None:
        Path(files[1]).write_text(text, encoding="utf-8")
        assert main([*files, "--json"]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_a_file_that_is_not_there_is_told_in_a_sentence(
        self, files: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*files[:3], "nowhere.csv"]) == 2
        assert "nowhere.csv cannot be read" in capsys.readouterr().err
        assert main([*files, "--published", "nowhere.json"]) == 2
        assert "nowhere.json cannot be read" in capsys.readouterr().err

    def test_pods_that_want_no_device_make_no_experiment(self, files: list[str]) -> None:
        Path(files[3]).write_text("cpu_milli,memory_mib,num_gpu,gpu_milli\n1,1,0,0\n", encoding="utf-8")
        with pytest.raises(BadTrace, match="no pod that asks for a device"):
            read_pods(Path(files[3]))

    def test_seeds_that_are_no_numbers_end_with_2(self, files: list[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main([*files, "--seeds", "a,b"])
        assert ended.value.code == 2
