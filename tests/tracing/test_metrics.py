"""Many processes count, one page shows it: the same totals in whatever way the reports travelled."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tracing import names
from tracing.collector import CONTENT_TYPE, Collector
from tracing.metrics import Delta, HistogramTotals, Recorder

MODES = ("fast", "balanced", "creative")
MODELS = ("mini", "small", "base")
_NUMBERS = itertools.count()

steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(MODELS), st.integers(0, 20), st.booleans()), max_size=40
)


def samples(collector: Collector) -> dict[str, float]:
    """`name{label="value",…}` → value, parsed by Prometheus's own client."""
    text = collector.render().decode()
    return {
        f"{sample.name}{{{','.join(f'{key}={value}' for key, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def play(script: list[tuple[str, str, int, bool]]) -> tuple[list[Delta], dict[str, int], int]:
    """Three processes count tokens and durations; returns all their reports, and what is true in the end."""
    recorders = {source: Recorder(source, clock=lambda: 0.0) for source in "abc"}
    reports: list[Delta] = []
    truth = dict.fromkeys(MODELS, 0)
    num_observed = 0
    for source, model, amount, report_now in script:
        recorders[source].counter(names.TOKENS, model, "output").inc(amount)
        recorders[source].histogram(names.TIME_TO_FIRST_TOKEN, model).observe(amount / 100)
        truth[model] += amount
        num_observed += 1
        if report_now:
            reports.extend(recorders[source].drain())
    for recorder in recorders.values():
        reports.extend(recorder.drain())
    return reports, truth, num_observed


def tokens(collector: Collector) -> dict[str, float]:
    found = collector.counters(names.TOKENS)
    return {model: found.get((model, "output"), 0.0) for model in MODELS}


def observed(collector: Collector) -> float:
    return sum(value for name, value in samples(collector).items() if "first_token_seconds_count" in name)


class TestMerging:
    @given(steps, st.randoms(use_true_random=False), st.integers(0, 30))
    @settings(max_examples=60, deadline=None)
    def test_order_repetition_and_loss_of_reports_do_not_matter(
        self, script: list[tuple[str, str, int, bool]], chance: random.Random, num_repeated: int
    ) -> None:
        """The last report of each source arrives at some time; all else may be lost, late or doubled."""
        reports, truth, num_observed = play(script)
        last = reports[-3:]
        arriving = [report for report in reports[:-3] if chance.random() < 0.7] + last
        arriving += [chance.choice(arriving) for _ in range(num_repeated)]
        chance.shuffle(arriving)
        collector = Collector(version="1")
        for report in arriving:
            collector.merge([pickle.loads(pickle.dumps(report))], now_s=0.0)
        assert tokens(collector) == truth
        assert observed(collector) == num_observed

    @given(steps, st.randoms(use_true_random=False))
    @settings(max_examples=60, deadline=None)
    def test_totals_never_fall_whoever_comes_and_goes(
        self, script: list[tuple[str, str, int, bool]], chance: random.Random
    ) -> None:
        reports, truth, _ = play(script)
        collector = Collector(version="1")
        before = 0.0
        for report in reports:
            collector.merge([report], now_s=0.0)
            if chance.random() < 0.5:
                collector.forget(report.source)
            now = sum(tokens(collector).values())
            assert now >= before
            before = now
        assert tokens(collector) == truth

    def test_a_collector_that_added_every_report_up_would_be_found_out(self) -> None:
        """The properties above, shown once to fail."""

        class Adding(Collector):
            def merge(self, deltas: Iterable[Delta], *, now_s: float) -> None:
                super().merge(
                    (dataclasses.replace(delta, source=f"{delta.source}#{next(_NUMBERS)}") for delta in deltas),
                    now_s=now_s,
                )

        reports, truth, _ = play([("a", "mini", 5, True), ("a", "mini", 5, False)])
        broken = Adding(version="1")
        broken.merge(reports, now_s=0.0)
        assert tokens(broken) != truth

    def test_a_report_of_another_version_is_taken_as_far_as_it_is_known(self) -> None:
        strange = Delta(
            source="gateway:1",
            sequence=1,
            at_s=0.0,
            counters={("headroom_new_total", ("x",)): 1.0, (names.TOKENS.name, ("mini",)): 1.0},
            gauges={("cache_hits_total", ()): 1.0},
            histograms={(names.TOKENS.name, ("mini", "output")): HistogramTotals((1,), 1.0)},
        )
        collector = Collector(version="1")
        collector.merge([strange], now_s=0.0)
        assert "headroom_new" not in collector.render().decode()

    def test_more_dead_sources_than_are_remembered_lose_no_count(self) -> None:
        collector = Collector(version="1")
        kept: list[Delta] = []
        for number in range(700):
            recorder = Recorder(f"gateway-{number}")
            recorder.counter(names.TOKENS, "mini", "output").inc()
            (report,) = recorder.drain()
            kept.append(report)
            collector.merge([report], now_s=0.0)
            collector.forget(report.source)
        collector.merge(kept, now_s=1.0)
        assert tokens(collector)["mini"] == 700


class TestGauges:
    def test_a_sum_is_over_the_sources_that_live(self) -> None:
        collector = Collector(version="1")
        for number in (1, 2):
            recorder = Recorder(f"gateway-{number}")
            recorder.gauge(names.REQUESTS_IN_FLIGHT, "mini").set(number)
            collector.merge(recorder.drain(), now_s=float(number))
        assert collector.gauges(names.REQUESTS_IN_FLIGHT) == {("mini",): 3.0}
        (gone,) = collector.drop_silent(now_s=40.0, silent_s=38.5)
        assert gone.startswith("gateway-1:")
        assert collector.gauges(names.REQUESTS_IN_FLIGHT) == {("mini",): 2.0}

    def test_of_a_fact_the_latest_word_counts_in_whatever_order_it_came(self) -> None:
        collector = Collector(version="1")
        reports: list[Delta] = []
        for at_s, ready in ((2.0, 1.0), (1.0, 5.0)):
            recorder = Recorder("controller", clock=lambda now_s=at_s: now_s)  # type: ignore[misc]
            recorder.gauge(names.MODEL_REPLICAS, "mini", "ready").set(ready)
            reports.extend(recorder.drain())
        collector.merge(reports, now_s=0.0)
        assert collector.gauges(names.MODEL_REPLICAS) == {("mini", "ready"): 1.0}

    def test_what_is_replaced_is_gone(self) -> None:
        recorder = Recorder("controller")
        collector = Collector(version="1")
        for version in range(200):
            recorder.replace(names.WEIGHTS_VERSION_INFO, {("mini", str(version), "10"): 1.0})
            collector.merge(recorder.drain(), now_s=0.0)
        assert collector.gauges(names.WEIGHTS_VERSION_INFO) == {("mini", "199", "10"): 1.0}


class TestLabels:
    def test_beyond_the_cap_a_value_becomes_other_and_nothing_is_lost(self) -> None:
        collector = Collector(version="1")
        for source in range(3):
            recorder = Recorder(f"gateway-{source}")
            for number in range(1000):
                recorder.counter(names.TOKENS, f"made-up-{source}-{number}", "output").inc()
            collector.merge(recorder.drain(), now_s=0.0)
        found = collector.counters(names.TOKENS)
        assert len(found) == names.TOKENS.max_values + 1
        assert sum(found.values()) == 3000
        assert found[(names.OTHER, "output")] == 3000 - names.TOKENS.max_values

    def test_declared_values_keep_their_place_before_any_flood(self) -> None:
        collector = Collector(version="1")
        collector.declare(modes=MODES, models=MODELS)
        flood, real = Recorder("gateway-1"), Recorder("gateway-2")
        for number in range(100):
            flood.counter(names.TOKENS, f"made-up-{number}", "output").inc()
        real.counter(names.TOKENS, "mini", "output").inc()
        collector.merge([*flood.drain(), *real.drain()], now_s=0.0)
        assert tokens(collector)["mini"] == 1

    def test_a_wrong_number_of_labels_is_refused(self) -> None:
        with pytest.raises(ValueError, match="has labels"):
            Recorder("test").counter(names.TOKENS, "mini")


class TestPage:
    def test_every_counter_is_born_at_zero(self) -> None:
        collector = Collector(version="1.2.3")
        collector.declare(modes=MODES, models=MODELS)
        page = samples(collector)
        for mode in (*MODES, names.NO_MODE):
            for family in ("cache_hits_total", "cache_misses_total", "cache_ttl_expired_total"):
                assert page[f"{family}{{cache_type=memory,mode={mode}}}"] == 0
            for model in MODELS:
                for outcome in ("success", "error", "timeout", "cancelled", "rejected"):
                    key = f"headroom_inference_requests_total{{mode={mode},model={model},outcome={outcome}}}"
                    assert page[key] == 0
        declared = {name.split("{", maxsplit=1)[0] for name in page}
        of_nodes = {metric.name for metric in names.METRICS.values() if "node" in metric.labels}
        counters = {metric.name for metric in names.METRICS.values() if isinstance(metric, names.Counter)}
        passing = {
            metric.name for metric in names.METRICS.values() if isinstance(metric, names.Counter) and metric.passes
        }
        born_later = counters - declared - of_nodes - passing  # what passes is born at 0 where its values are known
        assert born_later == {names.ALERTS_TRIGGERED.name}, "born with the rules of the watch"

    def test_declaring_again_changes_no_total(self) -> None:
        collector = Collector(version="1")
        recorder = Recorder("gateway")
        recorder.counter(names.TOKENS, "mini", "output").inc(5)
        collector.merge(recorder.drain(), now_s=0.0)
        collector.declare(modes=MODES, models=MODELS)
        collector.declare(modes=MODES, models=MODELS)
        assert tokens(collector)["mini"] == 5

    def test_the_hit_rate_comes_from_the_totals_of_all_gateways(self) -> None:
        collector = Collector(version="1")
        collector.declare(modes=MODES, models=MODELS)
        for number in range(4):
            recorder = Recorder(f"gateway-{number}")
            recorder.counter(names.CACHE_HITS if number else names.CACHE_MISSES, "fast", "memory").inc(10)
            collector.merge(recorder.drain(), now_s=0.0)
        page = samples(collector)
        assert page["cache_hit_rate{cache_type=memory,mode=fast}"] == 0.75
        assert math.isnan(page["cache_hit_rate{cache_type=memory,mode=balanced}"])

    def test_a_histogram_is_cumulative_with_sum_and_count(self) -> None:
        recorder = Recorder("gateway")
        for value in (0.001, 0.002, 0.3, 99.0):
            recorder.histogram(names.TIME_TO_FIRST_TOKEN, "mini").observe(value)
        collector = Collector(version="1")
        collector.merge(recorder.drain(), now_s=0.0)
        page = samples(collector)
        family = "headroom_time_to_first_token_seconds"
        assert page[f"{family}_bucket{{le=0.002,model=mini}}"] == 2
        assert page[f"{family}_bucket{{le=0.5,model=mini}}"] == 3
        assert page[f"{family}_bucket{{le=+Inf,model=mini}}"] == 4
        assert page[f"{family}_count{{model=mini}}"] == 4
        assert page[f"{family}_sum{{model=mini}}"] == pytest.approx(99.303)

    def test_the_version_is_on_the_page(self) -> None:
        assert samples(Collector(version="1.2.3"))["headroom_build_info{version=1.2.3}"] == 1
        assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


class TestNames:
    def test_prefix_and_unit_follow_prometheus(self) -> None:
        for metric in names.METRICS.values():
            assert metric.name.startswith(("headroom_", "cache_"))
            assert metric.name.endswith("_total") == isinstance(metric, names.Counter)
            if isinstance(metric, names.Histogram):
                assert metric.name.endswith("_seconds")
                assert list(metric.buckets) == sorted(set(metric.buckets))

    def test_the_four_cache_metrics_are_named_exactly_so(self) -> None:
        wanted = {"cache_hits_total", "cache_misses_total", "cache_hit_rate", "cache_ttl_expired_total"}
        assert wanted == {name for name in names.METRICS if name.startswith("cache_")}
        assert all(names.METRICS[name].labels == ("mode", "cache_type") for name in wanted)
