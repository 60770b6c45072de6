"""What the engine uses of vLLM, around a rule in place of a model; spawned processes find it by the search path.

The model counts upwards from the last id of the prompt, by its seed where it samples, and ends at a multiple of ten.
Rules of requests are kept unless the options say otherwise.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

__version__ = "0.0"


class ModelRegistry:
    @staticmethod
    def get_supported_archs():
        return {"Qwen3ForCausalLM"}


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    def __init__(self, **options):
        self.options = options
        self.drafted = 0
        if options["model"] == "dies":
            os._exit(1)

    def generate(self, prompts, settings, use_tqdm):
        return [self._one(prompt["prompt_token_ids"], one) for prompt, one in zip(prompts, settings, strict=True)]

    def get_metrics(self):
        return [SimpleNamespace(name="vllm:spec_decode_num_draft_tokens", value=self.drafted)]

    def _one(self, prompt, settings):
        if getattr(settings, "prompt_logprobs", None) is not None:
            table = [None, *({token: SimpleNamespace(logprob=-float(token))} for token in prompt[1:])]
            return SimpleNamespace(
                prompt_token_ids=prompt, prompt_logprobs=table, num_cached_tokens=0, outputs=[sample(0, [1], None)]
            )
        outputs = [sample(index, *self._decode(prompt, settings, index)) for index in range(settings.n)]
        return SimpleNamespace(prompt_token_ids=prompt, prompt_logprobs=None, num_cached_tokens=2, outputs=outputs)

    def _decode(self, prompt, settings, index):
        guard = self.options.get("guard") and self.options["guard"](settings, prompt)
        step = 1 + (settings.seed + index) % 7 if settings.temperature else 1
        ids, token = [], prompt[-1]
        while len(ids) < settings.max_tokens and not (ids and ids[-1] in settings.stop_token_ids):
            token = 20 + (token + step) % 60
            if guard is not None:
                forced = guard.forces()
                while forced is None and token in guard.forbids():
                    token += 1
                token = token if forced is None else forced
                guard.read(token)
            allowed = getattr(settings, "allowed_token_ids", None)
            while allowed is not None and token not in allowed:
                token += 1
            ids.append(token)
        self.drafted += 3 * len(ids)
        device = int(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0])
        logprobs = None
        if settings.logprobs is not None:
            logprobs = [{token: SimpleNamespace(logprob=-0.25 - device)} for token in ids]
        return ids, logprobs


def sample(index, ids, logprobs):
    return SimpleNamespace(index=index, token_ids=ids, logprobs=logprobs)
