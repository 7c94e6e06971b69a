"""A training step of MiniLM's shape: Sensorium against PyTorch eager, in turn.

    cargo build --release -p sensorium-model --example minilm_step
    python bench/minilm.py target/release/examples/minilm_step

Needs torch and transformers. Prints medians, and the median of the ratios of
neighbouring steps (below 1: Sensorium is faster).
"""

import statistics
import subprocess
import sys
import time

import torch
from transformers import BertConfig, BertModel

THREADS, ROUNDS = 2, 15


def peer():
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, vocab_size=30522,
    )
    config._attn_implementation = "sdpa"
    model, head = BertModel(config, add_pooling_layer=False), torch.nn.Linear(384, 2)
    parameters = list(model.parameters()) + list(head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ids, labels = torch.randint(0, 30522, (16, 128)), torch.randint(0, 2, (16,))

    def step():
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        pooled = model(input_ids=ids).last_hidden_state.mean(1)
        torch.nn.functional.cross_entropy(head(pooled), labels).backward()
        optimizer.step()
        return (time.perf_counter() - start) * 1e3

    return step


def ours(program):
    server = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step():
        server.stdin.write("\n")
        server.stdin.flush()
        return float(server.stdout.readline())

    return step


def main():
    a, b = ours(sys.argv[1]), peer()
    for _ in range(2):
        a(), b()
    pairs = []
    for i in range(ROUNDS):
        pairs.append((a(), b()) if i % 2 == 0 else tuple(reversed((b(), a()))))
        time.sleep(0.01)
    mine, theirs = zip(*pairs)
    ratio = statistics.median(x / y for x, y in pairs)
    print(f"sensorium {statistics.median(mine):.1f} ms (best {min(mine):.1f}), "
          f"torch {torch.__version__} {statistics.median(theirs):.1f} ms (best {min(theirs):.1f}), ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
