"""vLLM's own spans are part of our traces: same exporters, same service, below the gateway's `chat` span."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.tracing.otlp_receiver import Receiver, grpc_receiver, http_receiver
from tracing import names
from tracing.vllm_spans import use_process_provider, vllm_trace_arguments

ROOT = Path(__file__).parents[2]
CALLER = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
Serve = Callable[[], AbstractContextManager[Receiver]]
PROTOCOLS = pytest.mark.parametrize(("protocol", "serve"), [("http/protobuf", http_receiver), ("grpc", grpc_receiver)])

FRONT_END = f"""
import os
from tracing import names, setup, vllm_spans
setup.configure(names.ENGINE)
(endpoint,) = vllm_spans.vllm_trace_arguments(os.environ).values()
assert vllm_spans.use_process_provider(os.environ)
from vllm.tracing import SpanKind, extract_trace_context, extract_trace_headers, init_tracer, instrument_manual
init_tracer("vllm.llm_engine", endpoint)
headers = extract_trace_headers({{"traceparent": "{CALLER}", "host": "x"}})
context = extract_trace_context(headers)
instrument_manual(span_name="llm_request", start_time=1, attributes={{}}, context=context, kind=SpanKind.SERVER)
assert setup.flush()
"""
"""What vLLM's `AsyncLLM` and `OutputProcessor.do_tracing` call, in their order, without a model."""

ENGINE = f"""
import asyncio, os, sys
from tracing import names, setup, spans, vllm_spans

async def main():
    setup.configure(names.ENGINE)
    arguments = vllm_spans.vllm_trace_arguments(os.environ)
    assert vllm_spans.use_process_provider(os.environ)
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
    args = AsyncEngineArgs(
        model=sys.argv[1], dtype="float32", max_model_len=128, max_num_seqs=4, enforce_eager=True,
        kv_cache_memory_bytes=16 << 20, otlp_traces_endpoint=arguments["--otlp-traces-endpoint"],
    )
    with spans.operation(names.LOAD_MODEL_SPAN.format("tiny")):
        engine = await asyncio.to_thread(AsyncLLM.from_engine_args, args)
    vllm_spans.spare_statistics(engine)
    trace_headers = {{"traceparent": "{CALLER}"}}
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    async for _ in engine.generate("hello", params, request_id="1", trace_headers=trace_headers):
        pass
    assert setup.flush()
    engine.shutdown()

if __name__ == "__main__":
    asyncio.run(main())
"""


def run(code: str, *arguments: str, **env: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "HEADROOM_"))}
    quiet = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, *(["-c", code] if not code.endswith(".py") else [code]), *arguments],
        env={**clean, **quiet, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


class TestArguments:
    def test_untraced_vllm_is_started_as_ever(self) -> None:
        assert vllm_trace_arguments({}) == {}
        assert not use_process_provider({})

    def test_the_endpoint_is_the_full_url_of_the_protocol(self) -> None:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}
        assert vllm_trace_arguments(env) == {"--otlp-traces-endpoint": "http://collector:4318/v1/traces"}
        env |= {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        assert vllm_trace_arguments(env) == {"--otlp-traces-endpoint": "http://collector:4318/"}
        env |= {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4317"}
        assert vllm_trace_arguments(env) == {"--otlp-traces-endpoint": "http://traces:4317"}

    def test_files_alone_switch_the_spans_on_without_an_endpoint(self) -> None:
        assert vllm_trace_arguments({"HEADROOM_TRACE_DIR": "traces"}) == {"--otlp-traces-endpoint": "files"}


class TestFrontEnd:
    @PROTOCOLS
    def test_a_request_span_arrives_once_below_its_caller(self, protocol: str, serve: Serve) -> None:
        with serve() as receiver:
            run(FRONT_END, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
            (span,) = receiver.spans
        assert (span.name, span.trace_id, span.parent_id) == (names.VLLM_REQUEST_SPAN, "a" * 32, "b" * 16)
        assert (span.service, span.kind) == (names.ENGINE, "server")

    def test_it_reaches_the_files_where_only_they_want_it(self, tmp_path: Path) -> None:
        run(FRONT_END, HEADROOM_TRACE_DIR=str(tmp_path))
        (path,) = tmp_path.iterdir()
        (line,) = path.read_text().splitlines()
        assert (json.loads(line)["trace"], json.loads(line)["parent"]) == ("a" * 32, "b" * 16)


@pytest.mark.slow
class TestRealEngine:
    @PROTOCOLS
    def test_request_and_loading_spans_of_a_real_engine_arrive(
        self, protocol: str, serve: Serve, tiny_model: Path, tmp_path: Path
    ) -> None:
        script = tmp_path / "engine.py"
        script.write_text(ENGINE)
        with serve() as receiver:
            endpoint = receiver.endpoint
            run(
                str(script), str(tiny_model), OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol
            )
            spans = receiver.wait_for_names("llm_request", "load model tiny", "Load weights")
        (request,) = (span for span in spans if span.name == names.VLLM_REQUEST_SPAN)
        assert (request.trace_id, request.parent_id, request.service) == ("a" * 32, "b" * 16, names.ENGINE)
        loading = [span for span in spans if span is not request]
        assert len({span.trace_id for span in loading}) == 1
        assert {span.service for span in loading} == {names.ENGINE}

    def test_with_files_alone_the_engine_core_exports_nothing(self, tiny_model: Path, tmp_path: Path) -> None:
        script = tmp_path / "engine.py"
        script.write_text(ENGINE)
        run(str(script), str(tiny_model), HEADROOM_TRACE_DIR=str(tmp_path / "traces"))
        (path,) = (tmp_path / "traces").iterdir()
        found = {json.loads(line)["name"] for line in path.read_text().splitlines()}
        assert {"llm_request", "load model tiny"} <= found
        assert "Load weights" not in found


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of some ten thousand parameters, one token per letter."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {letter: index for index, letter in enumerate(["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz "])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
    )
    directory = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(directory)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(directory)
    return directory
