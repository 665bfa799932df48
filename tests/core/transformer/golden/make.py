"""Writes the numbers that test_parity.py holds the decoder against: logits of transformers (PyTorch, CPU), float32.

    pip install torch transformers gguf && python tests/core/transformer/golden/make.py [a checkpoint of SmolLM2-135M]

Random tiny models of each family with positions up to 4,000, their weights beside the logits; and, where a checkpoint
is named (`python -m core_jax.transformer.fetch smollm2-135m` makes it), logits of the real model at a few tokens, and
its greedy continuations of ten prompts. The versions that were used stand in the files.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
SMALL = {
    'vocab_size': 61,
    'hidden_size': 32,
    'intermediate_size': 48,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 8192,
    'initializer_range': 0.2,  # logits of order one: differences show
}
LLAMA3 = {'rope_type': 'llama3', 'rope_theta': 1e4, 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
MODELS = {
    'llama': ('LlamaConfig', {'rms_norm_eps': 1e-5, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 5e5}}),
    'llama3': (
        'LlamaConfig',
        {
            'rms_norm_eps': 1e-5,
            'tie_word_embeddings': True,
            'rope_parameters': LLAMA3 | {'original_max_position_embeddings': 64},
        },
    ),
    'qwen2': ('Qwen2Config', {'rms_norm_eps': 1e-6, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}}),
    'qwen3': (
        'Qwen3Config',
        {'rms_norm_eps': 1e-6, 'head_dim': 16, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6}},
    ),
}
PROMPTS = (
    'The capital of France is',
    'def fibonacci(n):',
    'Water boils at',
    'Once upon a time, there was',
    'import numpy as np\n',
    'The three primary colours are',
    '2 + 2 =',
    'To be, or not to be,',
    'Dear Sir or Madam,',
    'The mitochondrion is',
)
TOKENS = 20  # of a continuation


def tiny(name: str) -> None:
    kind, own = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**SMALL, **own)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation='eager').float().eval()
    with torch.no_grad():
        for weight in model.parameters():  # norms and biases are ones and zeros otherwise
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
    tokens = torch.randint(0, SMALL['vocab_size'], (2, 40))
    positions = torch.stack([torch.arange(40), torch.arange(40) * 100 + 37])  # up to 3,937
    with torch.no_grad():
        logits = model(tokens, position_ids=positions).logits
    arrays = {'weight:' + path: weight.numpy() for path, weight in model.state_dict().items()}
    arrays |= {'tokens': tokens.numpy(), 'positions': positions.numpy(), 'logits': logits.numpy()}
    document = config.to_dict() | {'made_with': f'transformers {transformers.__version__}, torch {torch.__version__}'}
    np.savez_compressed(HERE / f'{name}.npz', config=json.dumps(document), **arrays)


def smollm2(directory: str) -> None:
    from core_jax.transformer import tokenizer

    known = tokenizer.load(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(0, 49152, (1, 96)))
    with torch.no_grad():
        logits = model(tokens).logits[0]
        continued = []
        for prompt in PROMPTS:
            ids = torch.tensor([known.encode(prompt)])
            more = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=TOKENS, max_new_tokens=TOKENS
            )
            continued.append(more[0, -TOKENS:].tolist())
    places = rng.integers(0, 49152, 64)
    np.savez_compressed(
        HERE / 'smollm2.npz',
        tokens=tokens.numpy(),
        columns=places,
        logits=logits[:, places].numpy(),
        normalisers=torch.logsumexp(logits, -1).numpy(),
        continued=np.array(continued),
        prompts=json.dumps(PROMPTS),
        made_with=f'transformers {transformers.__version__}, torch {torch.__version__}',
    )


if __name__ == '__main__':
    for each in MODELS:
        tiny(each)
    if len(sys.argv) > 1:
        smollm2(sys.argv[1])
