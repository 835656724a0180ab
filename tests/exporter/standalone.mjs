// Runs a whole chain with onnxruntime-web. Arguments: folder of onnxruntime-web, ONNX file, JSON file of inputs {name: [shape, numbers]}.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, file, inputs] = process.argv.slice(2);
const ort = await import(pathToFileURL(join(folder, "dist", "ort.wasm.bundle.min.mjs")).href);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(file));
const feeds = {};
for (const [name, [shape, numbers]] of Object.entries(JSON.parse(readFileSync(inputs)))) {
  feeds[name] = new ort.Tensor("float32", Float32Array.from(numbers), shape);
}
const { sample, energy } = await session.run(feeds);
console.log(JSON.stringify({ sample: Array.from(sample.data), energy: Array.from(energy.data) }));
