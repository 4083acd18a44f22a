// Counts how many digits the page's networks recognise, turned by angles all round, with the page's own module and weights:
//   node examples/web/count.mjs DIR [DIGITS]
// DIR has MNIST's files. The digits are the first of its train file: the networks were trained on digits of t10k.
import { readFile, writeFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import init, { Classifier, Computer } from "./dist/quarterturn_web.js";

const NETWORKS = ["z2-28", "p4-27", "p4-28"];
// An answer holds for its angle and three quarter turns more.
const ANGLES = [0, 30, 60];

const [folder, digits = "1000"] = process.argv.slice(2);
const here = (name) => new URL(name, import.meta.url);
const idx = async (name, header) => gunzipSync(await readFile(`${folder}/train-${name}-ubyte.gz`)).subarray(header);
const [images, labels] = await Promise.all([idx("images-idx3", 16), idx("labels-idx1", 8)]);
const total = Math.min(Number(digits), labels.length);

await init({ module_or_path: await readFile(here("dist/quarterturn_web_bg.wasm")) });
const largest = (shares) => shares.indexOf(Math.max(...shares));
for (const name of NETWORKS) {
  const network = Classifier.open(await readFile(here(`networks/${name}.safetensors`)), name, Computer.cpu());
  const correct = new Map();
  for (let at = 0; at < total; at++) {
    const digit = images.subarray(784 * at, 784 * (at + 1));
    for (const degrees of ANGLES) {
      const { logits } = await network.answer(digit, degrees);
      for (let turn = 0; turn < 4; turn++) {
        const answer = largest(logits.slice(10 * turn, 10 * (turn + 1)));
        const angle = degrees + 90 * turn;
        correct.set(angle, (correct.get(angle) ?? 0) + (answer === labels[at]));
      }
    }
  }
  const rows = [...correct].sort(([a], [b]) => a - b).map(([angle, count]) => `MNIST,${name},${angle},${count},${total}`);
  await writeFile(here(`networks/${name}.csv`), ["data,network,angle_deg,correct,total", ...rows, ""].join("\n"));
  console.log(`${name}: ${correct.get(0)} of ${total} upright, ${correct.get(90)} turned by 90°`);
}
