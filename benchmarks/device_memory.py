"""Peak resident memory of a device that trains LeNet, beside a torch process that does the same.

    python -m benchmarks.device_memory --json memory.json

Each side is a fresh process that takes the same steps on the same data and reports its own peak (VmHWM of /proc). The
device side is the real runtime and scorer of a device with its client modules loaded; it never loads torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file

from benchmarks.figures import benchmark_parser, publish
from model_export.export import export_bundle
from model_export.model_source import build_model
from wire_protocol.bundle_manifest import WEIGHTS
from wire_protocol.sub_model import full_sub_model, sub_shapes
from wire_protocol.tensor_codec import encode

STEPS, BATCH, EXAMPLES = 100, 32, 1000

DEVICE = """
import sys, json
from pathlib import Path
import numpy as np
from edge_client import runner
from edge_client.fisher import FisherScorer
from edge_client.local_data import batches, in_order
from edge_client.training.portable import PortableRuntime
from wire_protocol.bundle_manifest import decode_manifest
from wire_protocol.examples import load_examples
from wire_protocol.tensor_codec import decode
from wire_protocol.sub_model import full_sub_model, sub_shapes
folder = Path(sys.argv[1])
layout = decode_manifest((folder / "manifest.json").read_bytes()).layout
shapes = sub_shapes(layout, full_sub_model(layout).widths)
parameters = decode((folder / "model.bin").read_bytes(), shapes, "float32")
examples = load_examples(folder / "data.npz")
FisherScorer.open(folder, layout, 1).scores(parameters, in_order(examples, 32))
runtime = PortableRuntime.open(folder, layout, 1)
loss = runtime.train(parameters, batches(examples, {batch}, {steps}, np.random.default_rng(0)), 0.05).loss
assert "torch" not in sys.modules
"""

TORCH = """
import sys, json
from pathlib import Path
import numpy as np
import torch
from model_export.zoo.lenet import lenet
torch.set_num_threads(1)
data = np.load(Path(sys.argv[1]) / "data.npz")
x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
model = lenet((1, 28, 28), 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range({steps}):
    at = torch.randint(len(x), ({batch},))
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x[at]), y[at])
    loss.backward()
    optimizer.step()
loss = loss.item()
"""

REPORT = """
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"peak_mb": int(peak.split()[1]) * 1024 / 1e6, "loss": loss}))
"""


def peak_memory(program: str, folder: Path) -> float:
    """Peak resident memory of a fresh process in MB (10^6 bytes)."""
    code = program.replace("{batch}", str(BATCH)).replace("{steps}", str(STEPS)) + REPORT
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["peak_mb"])


def main() -> None:
    """Run the benchmark."""
    options = benchmark_parser("Peak resident memory of a training device and of torch.").parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_inputs(folder)
        figures = {
            "device_mb": peak_memory(DEVICE, folder),
            "torch_mb": peak_memory(TORCH, folder),
        }
    figures["device_vs_torch"] = figures["device_mb"] / figures["torch_mb"]
    publish(
        f"LeNet 28 x 28, batch {BATCH}, {STEPS} steps, one thread",
        [
            {"process": "device (stock graphs, onnxruntime)", "peak resident MB": f"{figures['device_mb']:.0f}"},
            {"process": "torch", "peak resident MB": f"{figures['torch_mb']:.0f}"},
        ],
        figures,
        options.json,
    )


def _write_inputs(folder: Path) -> None:
    manifest = export_bundle(build_model("lenet", (1, 28, 28), 10, 0), (1, 28, 28), folder, name="lenet")
    shapes = sub_shapes(manifest.layout, full_sub_model(manifest.layout).widths)
    (folder / "model.bin").write_bytes(encode(load_file(folder / WEIGHTS), shapes, "float32"))
    generator = np.random.default_rng(0)
    images = generator.normal(size=(EXAMPLES, 1, 28, 28)).astype(np.float32)
    np.savez(folder / "data.npz", x=images, y=generator.integers(0, 10, EXAMPLES))


if __name__ == "__main__":
    main()
