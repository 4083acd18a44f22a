// The second tab: a network of the zoo at a size, judged and measured.
const FIELDS = ["model", "group", "subsampling", "size"];

export class Checker {
  constructor(worked, report) {
    [this.worked, this.report] = [worked, report];
    this.part = (id) => document.getElementById(id);
    this.latest = 0;
    this.part("checker").addEventListener("submit", (event) => event.preventDefault());
    for (const field of FIELDS) {
      this.part(field).addEventListener("change", () => {
        if (field === "model") this.part("size").value = this.part("model").selectedOptions[0].dataset.size;
        this.check();
      });
    }
    this.part("measure").addEventListener("click", () => this.measure());
    this.part("image").addEventListener("change", () => this.load(this.part("image").files[0]));
    this.stripes();
  }

  settings() {
    const [model, group, subsampling, size] = FIELDS.map((field) => this.part(field).value);
    return { model, group, adaptive: subsampling === "adaptive", size: Number(size) };
  }

  async check() {
    const turn = ++this.latest;
    const settings = this.settings();
    this.part("verdict").textContent = "…";
    try {
      const found = await this.worked.ask("report", settings);
      // Somebody may have chosen anew meanwhile.
      if (turn === this.latest) this.show(settings, found);
      this.report(null);
    } catch (error) {
      if (turn === this.latest) this.part("verdict").textContent = error.message;
    }
  }

  show({ size }, { verdict, exact, warning, parameters, layers, sizes }) {
    const said = {
      invariant: "Exact: a turned image has the same output, in every bit.",
      equivariant: "Exact: the output of a turned image is the output, turned, in every bit.",
      inexact: "Not exact.", unknown: "Not known.", "no symmetry": "z2 promises nothing but translation.",
    };
    const head = document.createElement("strong");
    head.className = exact ? "yes" : "no";
    head.textContent = `${size}×${size}: ${said[verdict]}`;
    const more = warning ?? `${parameters.toLocaleString("en")} parameters.`;
    this.part("verdict").replaceChildren(head, more);
    const hadFocus = this.part("sizes").contains(document.activeElement);
    this.part("sizes").replaceChildren(...sizes.map(([n, fits]) => {
      const button = document.createElement("button");
      button.textContent = n;
      button.classList.toggle("exact", fits);
      button.setAttribute("aria-pressed", n === size);
      button.setAttribute("aria-label", `${n}: ${fits ? "exact" : "not exact"}`);
      button.addEventListener("click", () => {
        this.part("size").value = n;
        this.check();
      });
      return button;
    }));
    if (hadFocus) this.part("sizes").querySelector("[aria-pressed=true]")?.focus();
    this.rows = new Map();
    this.part("layers").tBodies[0].replaceChildren(...layers.map((layer) => {
      const row = document.createElement("tr");
      const whole = layer.standing === "exact";
      const judged = whole ? "exact" : layer.window?.replace(`${layer.name} `, "") ?? layer.standing;
      for (const text of [layer.name, layer.kind, layer.output, layer.parameters || "", judged, ""]) {
        row.insertCell().textContent = text;
      }
      row.cells[4].className = whole ? "yes" : "no";
      this.rows.set(layer.name, row);
      return row;
    }));
    this.part("measured").textContent = "";
  }

  async measure() {
    const settings = this.settings();
    const turn = this.latest;
    const button = this.part("measure");
    button.disabled = true;
    this.part("measured").textContent = "Measuring, on the CPU …";
    try {
      const depths = await this.worked.ask("measure", { ...settings, ...this.image });
      if (turn !== this.latest) return;
      const broken = depths.find((depth) => depth.largest !== 0);
      const number = ({ largest, relative }) => largest === 0 ? "0" : percent(relative);
      for (const depth of depths) {
        const row = this.rows.get(depth.name);
        if (row) row.cells[5].textContent = number(depth);
      }
      this.part("measured").textContent = broken
        ? `The first output that does not turn with the image: ${broken.name}. At the end the error is ${number(depths.at(-1))} ` +
          "of the output."
        : "Every bit of every layer's output turns with the image.";
    } catch (error) {
      this.part("measured").textContent = error.message;
    } finally {
      button.disabled = false;
    }
  }

  async load(file) {
    if (!file) return;
    try {
      const picture = await createImageBitmap(file);
      // The checker takes it no larger.
      const scale = Math.min(1, 512 / Math.min(picture.width, picture.height));
      const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
      const sheet = new OffscreenCanvas(width, height).getContext("2d");
      sheet.drawImage(picture, 0, 0, width, height);
      this.take(sheet);
      this.report(null);
    } catch {
      this.report(`${file.name} is no image that this browser reads.`);
    }
  }

  take(sheet) {
    const { width, height } = sheet.canvas;
    const rgba = new Uint8Array(sheet.getImageData(0, 0, width, height).data.buffer);
    this.image = { rgba, width, height };
    const preview = this.part("preview");
    const side = Math.min(width, height);
    preview.getContext("2d").drawImage(sheet.canvas, (width - side) / 2, (height - side) / 2, side, side, 0, 0, 72, 72);
  }

  // An image until there is another.
  stripes() {
    const sheet = new OffscreenCanvas(96, 96).getContext("2d");
    sheet.fillStyle = "#e8b04a";
    sheet.fillRect(0, 0, 96, 96);
    ["#0072b2", "#d55e00", "#009e73", "#ffffff"].forEach((colour, at) => {
      sheet.fillStyle = colour;
      sheet.beginPath();
      sheet.arc(24 + 18 * at, 20 + 17 * (at * at % 5), 15 - 2 * at, 0, 7);
      sheet.fill();
    });
    this.take(sheet);
  }
}

const percent = (share) => `${(100 * share).toPrecision(2)}%`;
