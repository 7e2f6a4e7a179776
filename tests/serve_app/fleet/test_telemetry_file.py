"""Telemetry files: what is read, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from placement.backtest import Life
from placement.signals import DeviceSignals, Poll, Silence
from serve_app.fleet.telemetry_file import COLUMNS, BadTelemetry, read_telemetry, write_telemetry

HEADER = ",".join(COLUMNS)
ROW = "n/gpu-0,{time},71,85,300,400,0,0,{failed}"


def csv(directory: Path, *rows: str, header: str = HEADER) -> Path:
    path = directory / "telemetry.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def row(time: object, failed: object = "") -> str:
    return ROW.format(time=time, failed=failed)


def polls(life: Life) -> list[tuple[float, Poll]]:
    return list(life.polls)


def refusal(path: Path) -> str:
    with pytest.raises(BadTelemetry) as caught:
        read_telemetry(path)
    return str(caught.value)


class TestReading:
    def test_a_row_is_one_poll(self, tmp_path: Path) -> None:
        (life,) = read_telemetry(csv(tmp_path, row(5))).lives()
        ((time_s, poll),) = polls(life)
        assert isinstance(poll, DeviceSignals)
        assert (life.device, life.failed_s, life.story, time_s) == ("n/gpu-0", None, "healthy", 5.0)
        assert (poll.temperature_c, poll.slowdown_c, poll.power_w, poll.power_limit_w) == (71.0, 85.0, 300.0, 400.0)
        assert (poll.ecc_corrected, poll.pcie_replays, poll.utilization) == (0, 0, None)

    def test_a_row_without_any_reading_is_a_silence_and_one_with_some_is_none(self, tmp_path: Path) -> None:
        (life,) = read_telemetry(csv(tmp_path, "n/gpu-0,5,,,,,,,", "n/gpu-0,6,71,,,,,,")).lives()
        assert [type(poll) for _, poll in polls(life)] == [Silence, DeviceSignals]

    def test_rows_from_the_failure_on_are_left_out(self, tmp_path: Path) -> None:
        (life,) = read_telemetry(csv(tmp_path, *(row(time, 20) for time in (0, 10, 20, 30)))).lives()
        assert [time_s for time_s, _ in polls(life)] == [0.0, 10.0]
        assert (life.failed_s, life.story) == (20.0, "failure")

    def test_a_replaced_device_begins_a_new_life(self, tmp_path: Path) -> None:
        lives = list(read_telemetry(csv(tmp_path, row(0, 20), row(30), row(40))).lives())
        assert [(life.failed_s, len(polls(life))) for life in lives] == [(20.0, 1), (None, 2)]

    def test_devices_may_be_mixed(self, tmp_path: Path) -> None:
        rows = [row(time).replace("gpu-0", f"gpu-{index}") for time in (0, 5) for index in (0, 1)]
        assert [(life.device, len(polls(life))) for life in read_telemetry(csv(tmp_path, *rows)).lives()] == [
            ("n/gpu-0", 2),
            ("n/gpu-1", 2),
        ]

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_what_was_written_is_read(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"t{suffix}"
        columns: dict[str, list[object]] = {
            "device": ["a", "a"], "time_s": [0.0, 5.0], "temperature_c": [70.0, None], "slowdown_c": [85.0, None],
            "power_w": [300.5, None], "power_limit_w": [400.0, None], "ecc_corrected": [7, None],
            "pcie_replays": [1, None], "failed": [9.0, 9.0], "utilization": [0.5, None],
            "ecc_uncorrected": [0, None], "story": ["fan", "fan"],
        }  # fmt: skip
        assert write_telemetry(path, [columns]) == 2
        (life,) = read_telemetry(path).lives()
        (_, first), (_, second) = polls(life)
        assert (life.story, life.failed_s) == ("fan", 9.0)
        assert isinstance(first, DeviceSignals)
        assert (first.ecc_corrected, first.power_w, first.utilization) == (7, 300.5, 0.5)
        assert isinstance(second, Silence)


class TestRefused:
    def test_a_missing_column(self, tmp_path: Path) -> None:
        text = refusal(csv(tmp_path, "a,1", header="device,time_s"))
        assert "lacks the column 'temperature_c'. Columns: device, time_s," in text

    def test_an_unknown_column(self, tmp_path: Path) -> None:
        assert "has the column 'mood', which is none of ours" in refusal(
            csv(tmp_path, row(0) + ",fine", header=HEADER + ",mood")
        )

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("n/gpu-0,0,warm,85,300,400,0,0,", "has 'warm' as 'temperature_c' in row 2. Expected a number."),
            ("n/gpu-0,0,71,85,300,400,1.5,0,", "has '1.5' as 'ecc_corrected' in row 2. Expected a whole number."),
            ("n/gpu-0,,71,85,300,400,0,0,", "has no 'time_s' in row 2."),
            (",0,71,85,300,400,0,0,", "has no 'device' in row 2."),
            ("n/gpu-0,inf,71,85,300,400,0,0,", "has 'inf' as 'time_s' in row 2."),
        ],
    )
    def test_a_wrong_value_with_its_row(self, tmp_path: Path, line: str, words: str) -> None:
        assert words in refusal(csv(tmp_path, row(0), line))

    def test_a_wrong_type_in_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pl.DataFrame({name: [1] for name in COLUMNS}).write_parquet(path)
        assert "has 'device' as Int64. Expected text." in refusal(path)

    def test_a_device_that_goes_back_in_time(self, tmp_path: Path) -> None:
        assert "goes back in time in row 2, device 'n/gpu-0'. Sort it" in refusal(csv(tmp_path, row(5), row(4)))

    def test_a_file_without_rows(self, tmp_path: Path) -> None:
        assert "has no rows" in refusal(csv(tmp_path))

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.touch()
        assert "cannot be read as csv" in refusal(path)

    def test_a_file_that_is_no_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        path.write_text("nonsense", encoding="utf-8")
        assert "cannot be read as parquet" in refusal(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert "There is no file" in refusal(tmp_path / "t.csv")

    def test_another_ending(self, tmp_path: Path) -> None:
        assert "ends in '.xlsx'. Telemetry is read and written as .csv or .parquet." in refusal(tmp_path / "t.xlsx")

    def test_too_many_stories(self, tmp_path: Path) -> None:
        rows = [f"{row(time)},s{time}" for time in range(101)]
        assert "has 101 different stories" in refusal(csv(tmp_path, *rows, header=HEADER + ",story"))
