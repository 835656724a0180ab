"""A page like docs/benchmarks.md from the results of samplers.py, and of jitter.py where it wrote into the same file.

python benchmarks/sampler_page.py benchmarks/results/xeon-amx.json docs/benchmarks.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["document"]


_ATTENTION = (
    "The candidates of `policy_attention` attend to 36 places of the image; in PyTorch they are the tokens of one sequence, which share",
    "keys and values, but for the row with a condition for each chain.",
)


def document(result: dict[str, Any]) -> str:
    """The page of these results."""
    device = ", ".join(f"{name} {value}" for name, value in result["device"].items())
    lines = [
        "# Benchmarks" if "amx" in result["device"].get("instructions", "") else "# Benchmarks on a CPU without AMX",
        "",
        "Measured by `python benchmarks/samplers.py`, each network in one run, on one machine:",
        f"{device}.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in result['toolchain'].items())}.",
        "",
        "Contestants take turns; a time is the median over the rounds, a ratio the median of the ratios within a round (above 1: this",
        "runtime is faster). A turn begins after a pause, so that threads of the one before sleep, and with a run that is not timed.",
        "All take the same steps with the same number of threads, but for those who encode a condition for each chain at each step: they",
        "take four. Weights are random, which does not change the time. The published policy on pixels takes 100 steps, and 100 more",
        '(Florence et al., "Implicit behavioral cloning", CoRL 2021); with 16, the encoder, which runs once, is a good part of the time.',
        *(_ATTENTION if "policy_attention" in result["nets"] else ()),
        "`PyTorch eager` is the loop that people write (autograd, an update, noise); `torch.compile` compiles its energy, and with `whole",
        "step` the gradient (`torch.func.grad`), the update and the noise too, or several steps written out; `torchebm` and `ebmkit` are",
        "their own samplers; `onnxruntime from Python` calls the exported graph, whole, with numpy around it: it asks for the gradient alone,",
        "keeps no scale for it, looks for no divergence, and draws with numpy's generator, whose numbers depend on how chains are batched.",
        "In INT8 a chain's first gradient scale is looked for beside its steps: two calls of the engine, and four for the three networks of",
        "images, whose exports ran no chains here that would tell where to begin. With 8 steps those are a third of the time.",
        *_earlier(result["nets"]),
        "",
    ]
    for net, batches in result["nets"].items():
        for found in batches:
            threads = f"{found['threads']} thread{'s'[: found['threads'] > 1]}"
            lines += [f"## {net}, {found['batch']} chains, {threads}, {found['steps']} steps", ""]
            lines += [
                "| | ms per step | 10 % to 90 % | GFLOP/s | of the peak | peak MB | engine | noise | update |",
                "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            ]
            for name, row in sorted(found["rows"].items(), key=lambda item: item[1]["median ms"]):
                memory = "-" if row["peak MB"] is None else f"{row['peak MB']:.0f}"
                work = "- | -" if row["gflops"] is None else f"{row['gflops']:.4g} | {row['share of peak']:.0%}"
                shares = row.get("parts")
                parts = " | ".join(
                    "-" if not shares else f"{shares[part]:.1%}" for part in ("engine", "noise", "update")
                )
                lines.append(
                    f"| {name} | {row['median ms']:.4g} | {row['p10 ms']:.4g} to {row['p90 ms']:.4g} | {work} | {memory} | {parts} |"
                )
            lines.append("")
            for name, entry in found["ratios"].items():
                lines.append(f"- {entry['ratio']:.2f} times as fast as {name} ({entry['ours']})")
            lines.append("")
    lines += [
        "GFLOP/s count what PyTorch does for E and dE/dx at each step, and a condition's encoder as often as the contestant runs it.",
        *(
            f"The machine's own peak in large products and convolutions with {threads} thread{'s'[: threads != '1']} (PyTorch): "
            f"{peak['fp32']:.0f} in FP32, {peak['bf16']:.0f} in BF16, {peak['int8']:.0f} in INT8."
            for threads, peak in result["peaks"].items()
        ),
        *_without_bf16(result["peaks"]),
        "Peak MB is the largest resident memory of a fresh process that draws samples and does nothing else",
        "(`benchmarks/peak_memory.py`); what PyTorch compiles is compiled in it.",
        "Engine, noise and update are shares of the time of a run, timed in it (`benchmarks/step_parts.py`): calls of the engine, waiting",
        "for numbers that a second thread draws meanwhile or drawing them, and the rest: clipping, bounds, the step, the gradient's scale.",
        'Fused, the engine does most of the update too. "-" was not measured.',
        "",
    ]
    if "growth" in result:
        for name, rows in result["growth"].items():
            network = "the network for CIFAR-10, one chain" if name == "resolution" else "digits"
            lines += [
                f"## Growth with {name} ({network})",
                "",
                f"| {' | '.join(rows[0])} |",
                f"| {' | '.join('---:' for _ in rows[0])} |",
            ]
            lines += [f"| {' | '.join(f'{value:.4g}' for value in row.values())} |" for row in rows]
            lines.append("")
    lines += _jitter(result.get("jitter", []))
    return "\n".join(lines).rstrip() + "\n"


def _jitter(rows: list[dict[str, Any]]) -> list[str]:
    """How punctual deadlines were, a table for each network."""
    if not rows:
        return []
    lines = [
        "## Deadlines",
        "",
        f"Calls of `refine(deadline_ms=)`, {rows[0]['calls']:,} for each line, sampler {rows[0]['sampler']}, one thread",
        "(`python benchmarks/jitter.py`): the time that a caller",
        "sees, in milliseconds, the share of calls that came back after their deadline, and the steps that there was time for. Contestants take",
        "turns of 50 calls. Fused: several steps in one engine call, which cannot be broken off.",
        "",
    ]
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        lines += [
            f"### {network}, {own[0]['chains']} chains",
            "",
            "| | deadline | p50 | p99 | p99.9 | longest | missed | steps |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in own:
            who = row["backend"] + (f", {row['fused']} fused" if row["fused"] else "")
            times = " | ".join(f"{row[key]:.2f}" for key in ("p50 ms", "p99 ms", "p99.9 ms", "longest ms"))
            missed = f"{row['missed'] / row['calls']:.2%}"
            lines.append(f"| {who} | {row['deadline ms']:g} | {times} | {missed} | {row['median steps']:g} |")
        lines.append("")
    return lines


def _earlier(nets: dict[str, Any]) -> list[str]:
    """What to say of networks whose results are of a time when PyTorch was not given the whole step."""
    names = [
        net
        for net, batches in nets.items()
        if not any(who.endswith("whole step") for found in batches for who in found["rows"])
    ]
    if not names:
        return []
    return [
        f"Measured before PyTorch was given the whole step, and so beside a slower one: {', '.join(names)}.",
    ]


def _without_bf16(peaks: dict[str, dict[str, float]]) -> list[str]:
    """Why shares of the peak in BF16 can be above 100 %."""
    if all(peak["bf16"] >= peak["fp32"] for peak in peaks.values()):
        return []
    return [
        "This CPU has no instructions for BF16: PyTorch takes several for each product, and ebm-export computes in float32."
    ]


def main() -> None:
    """Writes the page of a file of results."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(document(result), encoding="utf-8")


if __name__ == "__main__":
    main()
