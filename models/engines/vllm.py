"""Scores slates with vLLM's CPU build, one prompt a candidate. Knows nothing of ours but the job.

Set for the work: prefix caching, the smallest block, one generated token, the logits of the labels
alone, and the engine in this process. In a process of its own, vLLM's default, the engine leaves a
core to the front end, which idles here.
"""

from __future__ import annotations

import os
from pathlib import Path

# Read as vLLM is imported, some of them later.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "auto",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

import vllm

from models.engines.base import ScoreJob

BLOCK_SIZE = 32  # the smallest its CPU kernels are made for; its default is 128
MOST_SEQUENCES = 64
TOKENS_PER_STEP = 4096


class VllmScorer:
    """Raw logits of one model directory in bf16. longest: tokens of a whole prompt."""

    def __init__(
        self, model: Path, label_ids: tuple[int, int], longest: int, cache_gib: int
    ) -> None:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(cache_gib)
        self._labels = label_ids
        self._sampling = vllm.SamplingParams(
            max_tokens=1, temperature=0, logprob_token_ids=list(label_ids), detokenize=False
        )
        self._engine = vllm.LLM(
            str(model),
            dtype="bfloat16",
            block_size=BLOCK_SIZE,
            enable_prefix_caching=True,
            skip_tokenizer_init=True,
            logprobs_mode="raw_logits",
            max_model_len=longest + 1,
            max_num_seqs=MOST_SEQUENCES,
            max_num_batched_tokens=max(TOKENS_PER_STEP, longest + 1),
        )

    def raw_logits(self, job: ScoreJob) -> list[float]:
        """Of the first label less the second, in order."""
        prompts = [{"prompt_token_ids": list(job.context_ids + ids)} for ids in job.candidates]
        outputs = self._engine.generate(prompts, self._sampling, use_tqdm=False)
        tops = [output.outputs[0].logprobs[0] for output in outputs]
        yes, no = self._labels
        return [top[yes].logprob - top[no].logprob for top in tops]
