"""The peer of bench.py: transformers with PyTorch on the CPU, told by lines of JSON what to do how often.

    python bench_peer.py CHECKPOINT

It says its versions first, and answers {} to each request when that is done.
"""

import json
import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.utils.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, local_files_only=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
    versions = {'torch': torch.__version__, 'transformers': transformers.__version__}
    say({'versions': versions | {'threads': torch.get_num_threads()}})
    for line in sys.stdin:
        request = json.loads(line)
        tokens = torch.tensor(request['tokens'], dtype=torch.long)
        for _ in range(request['count']):
            DO[request['do']](model, optimizer, tokens, request)
        say({})


def prefill(model, optimizer, tokens, request) -> None:
    with torch.inference_mode():
        model(tokens, logits_to_keep=1, use_cache=True)


def decode(model, optimizer, tokens, request) -> None:
    new = request['new']
    with torch.inference_mode():
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=0,
        )


def train(model, optimizer, tokens, request) -> None:
    optimizer.zero_grad(set_to_none=True)
    model(tokens, labels=tokens, use_cache=False).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def score(model, optimizer, tokens, request) -> None:
    behind = request['behind']
    with torch.inference_mode():
        # Logits of the candidates' tokens alone.
        logits = model(tokens, use_cache=False, logits_to_keep=tokens.shape[1] - behind + 1).logits[:, :-1]
        torch.log_softmax(logits, -1).gather(-1, tokens[:, behind:, None]).sum((1, 2))


def say(message) -> None:
    print(json.dumps(message), flush=True)


DO = {'prefill': prefill, 'decode': decode, 'train': train, 'score': score}

if __name__ == '__main__':
    main()
