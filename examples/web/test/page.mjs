// Opens the page in a real browser, uses it as people do, and looks at what it says:
//   npm install --prefix examples/web/test && node examples/web/test/page.mjs OUT [cpu|software]
// OUT gets screenshots and answers.json. CHROMIUM names the browser.
import assert from "node:assert/strict";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { chromium } from "playwright-core";

const [out, computer = "cpu"] = process.argv.slice(2);
const dist = new URL("../dist/", import.meta.url).pathname;
const NETWORKS = ["z2-28", "p4-27", "p4-28"];
const EXACT = 2;
const TYPES = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".wasm": "application/wasm" };

await mkdir(out, { recursive: true });
const server = createServer(async (request, response) => {
  const name = new URL(request.url, "http://here").pathname.slice(1) || "index.html";
  try {
    const bytes = await readFile(join(dist, name));
    response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" }).end(bytes);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const address = `http://127.0.0.1:${server.address().port}/?computer=${computer}`;
const gpu = ["--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-webgpu-adapter=swiftshader"];
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // Containers have little shared memory.
  args: ["--no-sandbox", "--disable-dev-shm-usage", ...(computer === "software" ? gpu : [])],
});

const told = [];
async function open(options, expectErrors = false) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  if (!expectErrors) {
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && told.push(message.text()));
    page.on("pageerror", (error) => told.push(error.message));
  }
  await page.addInitScript(() => {
    window.longest = 0;
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) window.longest = Math.max(window.longest, duration);
    }).observe({ type: "longtask", buffered: true });
  });
  return page;
}

// All columns have answered to what was asked last.
async function answered(page, degrees) {
  await page.waitForFunction((degrees) => {
    const columns = [...document.querySelectorAll(".column")];
    const error = document.querySelector("#error");
    if (!error.hidden) throw new Error(error.textContent);
    return columns.length === 3 && columns.every((column) => column.dataset.degrees === String(degrees));
  }, degrees, { timeout: 120_000 });
  return page.$$eval(".column", (all) => all.map(({ dataset: { answer, same } }) => ({ answer, same: same === "true" })));
}

// The page's thread takes the picture itself, and is busy with it: that is no task of the page.
async function shot(page, name) {
  const before = await page.evaluate(() => window.longest);
  await page.screenshot({ path: join(out, `${computer}-${name}.png`), fullPage: true });
  await page.evaluate((before) => new Promise((done) => setTimeout(() => {
    window.longest = before;
    done();
  }, 200)), before);
}

// A desk: drawn with the mouse, turned with keys and buttons.
const desk = { viewport: { width: 1280, height: 900 }, colorScheme: "light" };
const page = await open(desk);
const began = Date.now();
await page.goto(address);
const first = await answered(page, 0);
console.log(`first answer after ${Date.now() - began} ms, on: ${await page.locator("#computer option:checked").textContent()}`);
assert.deepEqual(first.map(({ answer }) => answer), ["4", "4", "4"], "the example");
await page.waitForFunction(() => document.querySelectorAll(".accuracy b").length === 9);

await page.getByRole("button", { name: "Clear" }).click();
const box = await page.locator("#pad").boundingBox();
const stroke = async (points) => {
  const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
  await page.mouse.move(...at(points[0]));
  await page.mouse.down();
  for (const point of points.slice(1)) await page.mouse.move(...at(point), { steps: 8 });
  await page.mouse.up();
};
await stroke([[0.26, 0.16], [0.74, 0.16], [0.58, 0.5], [0.48, 0.86]]);
await page.waitForFunction(() => document.querySelectorAll(".column strong")[2].textContent === "7");
for (let turns = 0; turns < 4; turns++) {
  const columns = await answered(page, 90 * turns);
  assert.deepEqual(columns.map(({ same }) => same), [false, false, true], `${90 * turns}°`);
  assert.equal(columns[EXACT].answer, "7", `${90 * turns}°`);
  await page.getByRole("button", { name: "A quarter turn clockwise", exact: true }).click();
}
const dial = page.getByRole("slider", { name: "Turn" });
await dial.focus();
await page.keyboard.press("PageUp");
await page.keyboard.press("ArrowRight");
await answered(page, 16);
assert.equal(await dial.getAttribute("aria-valuenow"), "16");
await page.getByRole("button", { name: "All the way round" }).click();
await page.waitForFunction(() => document.querySelector("#round").getAttribute("aria-pressed") === "false" &&
  document.querySelector("#angle").textContent === "16°", null, { timeout: 60_000 });
await answered(page, 16);
console.log(await page.locator("#time").textContent());
await shot(page, "desk");

// By keys alone: a one.
await page.getByRole("button", { name: "Clear" }).click();
await dial.focus();
await page.keyboard.press("Home");
await page.locator("#pad").focus();
await page.keyboard.press("Space");
for (let i = 0; i < 16; i++) await page.keyboard.press("ArrowDown");
await page.waitForFunction(() => document.querySelectorAll(".column strong")[2].textContent === "1");

// The worker's answers, for the native library, and turn against turn.
const asked = await page.evaluate(async ({ names, kind }) => {
  const { Worked } = await import("./computer.js");
  const { Pad } = await import("./pad.js");
  const worked = new Worked((message) => { throw new Error(message); });
  await worked.ask("start", { kind });
  const canvas = Object.assign(document.createElement("canvas"), { width: 280, height: 280 });
  const pad = new Pad(canvas, () => {});
  const answers = [];
  for (const number of [2, 4, 7]) {
    pad.example(number);
    const digit = await worked.ask("digit", pad.pixels());
    for (const [network, name] of names.entries()) {
      for (const degrees of [0, 33, 90, 180, 270]) {
        const { logits, milliseconds } = await worked.ask("answer", { digit, degrees, network });
        answers.push({ network: name, number, digit: [...digit], degrees, logits: [...logits], milliseconds });
      }
    }
  }
  worked.worker.terminate();
  return answers;
}, { names: NETWORKS, kind: computer });
const bits = (logits) => [...new Uint32Array(Float32Array.from(logits).buffer)].join();
for (const { network, number, degrees, logits } of asked) {
  if (degrees % 90 !== 0) continue;
  const upright = asked.find((other) => other.network === network && other.number === number && other.degrees === 0);
  const same = bits(logits.slice(0, 10)) === bits(upright.logits.slice(0, 10));
  assert.equal(same, network === NETWORKS[EXACT] || degrees === 0, `${network}, ${number} at ${degrees}°`);
}
for (const name of NETWORKS) {
  const times = asked.filter(({ network }) => network === name).map(({ milliseconds }) => milliseconds).sort((a, b) => a - b);
  console.log(`${name}: four quarter turns in ${times[times.length >> 1].toFixed(1)} ms (median of ${times.length})`);
}
await writeFile(join(out, "answers.json"), JSON.stringify(asked));

// The checker.
await page.getByRole("tab", { name: "Draw" }).focus();
await page.keyboard.press("ArrowRight");
await page.getByText("224×224: Not exact.").waitFor();
await page.getByRole("button", { name: "225: exact" }).click();
await page.getByText("225×225: Exact").waitFor();
await page.getByRole("combobox", { name: "Network" }).selectOption("p4cnn");
await page.getByText("28×28: Exact").waitFor();
await page.getByRole("button", { name: "Measure" }).click();
await page.getByText("Every bit of every layer's output turns").waitFor();
await page.getByRole("button", { name: "27: not exact" }).click();
await page.getByText("27×27: Not exact.").waitFor();
await page.locator("#image").setInputFiles(join(out, `${computer}-desk.png`));
await page.getByRole("button", { name: "Measure" }).click();
await page.getByText("The first output that does not turn").waitFor();
await page.getByRole("spinbutton", { name: "Size" }).fill("2");
await page.keyboard.press("Enter");
await page.waitForFunction(() => /does not fit|smaller|fit/.test(document.querySelector("#verdict").textContent));
await page.getByRole("combobox", { name: "Network" }).selectOption("resnet18");
await page.getByText("224×224: Not exact.").waitFor();
if (computer === "software") {
  await page.getByRole("button", { name: "Try it out" }).click();
  await page.getByText("equivariant to the last bit").waitFor({ timeout: 300_000 });
  console.log(await page.locator("#tried").textContent());
}
await shot(page, "checker");
const longest = await page.evaluate(() => window.longest);
console.log(`the page's thread was busy for at most ${longest.toFixed(0)} ms at a time`);
assert.ok(longest <= Number(process.env.LONGEST_TASK ?? 50), `${longest} ms`);

// Dark, and a phone, by touch.
for (const [name, options] of [
  ["desk-dark", { ...desk, colorScheme: "dark" }],
  ["phone", { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true }],
  ["phone-dark", { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true, colorScheme: "dark" }],
]) {
  const page = await open(options);
  await page.goto(address);
  await answered(page, 0);
  if (options.hasTouch) {
    await page.getByRole("button", { name: "A quarter turn anticlockwise" }).tap();
    await answered(page, 270);
    await page.locator("#pad").tap({ position: { x: 30, y: 30 } });
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 390, `the page is ${width} pixels wide`);
    await page.getByRole("button", { name: "Clear" }).tap();
    await page.getByRole("combobox", { name: "An example digit" }).selectOption("3");
    await answered(page, 270);
  }
  await page.waitForFunction(() => document.querySelectorAll(".accuracy b").length === 9);
  await shot(page, name);
  await page.context().close();
}

// Errors are shown.
const broken = await open(desk, true);
await broken.route("**/p4-27.safetensors", (route) => route.fulfill({ status: 200, body: "no weights" }));
await broken.goto(address);
await broken.getByRole("alert").getByText("p4-27").waitFor();
const lost = await open(desk, true);
await lost.route("**/*.wasm", (route) => route.abort());
await lost.goto(address);
await lost.getByRole("alert").waitFor();
assert.deepEqual(told, [], "the console");

await browser.close();
server.close();
console.log("the page holds");
