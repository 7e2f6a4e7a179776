"""Environment an engine process starts with. It must be set before torch or vLLM are imported."""

from __future__ import annotations

from placement.inventory import DeviceKind
from serve_app.engines.protocol import EngineLaunch

_ALWAYS = {
    # No weights, statistics or templates are ever fetched at run time.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Its own configuration closes every log handler of the process, Serve's log file among them; warnings reach stderr
    # without it. Source: vLLM 0.32 `logger.py`.
    "VLLM_CONFIGURE_LOGGING": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

_ON_HOST = {
    # With one OpenMP thread there is nothing to bind, so the worker may live in the engine core itself:
    # one process less to start (about 16 s of CPU saved) and one hop less per step.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The automatic binding would give every engine the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # vLLM compiles what counts log-probabilities at their first use: with a C++ compiler the engine stands still for
    # half a minute, without one it dies. It runs as written instead. Source: vLLM 0.32 `v1/sample/ops/logprobs.py`.
    "TORCH_COMPILE_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def engine_environment(launch: EngineLaunch) -> dict[str, str]:
    """Variables to set in the replica before it imports the engine."""
    if launch.device_kind is DeviceKind.CUDA:
        return {**_ALWAYS, "CUDA_VISIBLE_DEVICES": ",".join(launch.device_uuids)}
    return {**_ALWAYS, **_ON_HOST}
