// The paper: drawn on with mouse, pen, finger or keys, white on black.
const WIDTH = 22;
const STEP = 8;

// Digits as lines through points, on paper of 100 by 100.
const EXAMPLES = [
  [[50, 12, 33, 18, 26, 38, 26, 62, 33, 82, 50, 88, 67, 82, 74, 62, 74, 38, 67, 18, 50, 12]],
  [[38, 26, 54, 12, 54, 88]],
  [[28, 30, 34, 16, 50, 11, 66, 17, 70, 32, 62, 48, 28, 86, 74, 86]],
  [[30, 18, 48, 11, 64, 17, 67, 32, 60, 43, 44, 47, 62, 52, 71, 66, 64, 82, 47, 88, 29, 82]],
  [[60, 88, 60, 12, 26, 62, 76, 62]],
  [[70, 13, 36, 13, 32, 45, 50, 40, 66, 47, 71, 64, 63, 81, 46, 87, 28, 81]],
  [[64, 13, 46, 24, 33, 44, 29, 66, 37, 83, 52, 88, 66, 82, 71, 67, 64, 54, 50, 50, 37, 56, 30, 68]],
  [[26, 14, 74, 14, 60, 42, 48, 88]],
  [[50, 48, 35, 40, 31, 26, 38, 15, 50, 11, 62, 15, 69, 26, 65, 40, 50, 48, 34, 58, 29, 73, 36, 84, 50, 88, 64, 84, 71, 73,
    66, 58, 50, 48]],
  [[69, 34, 62, 46, 48, 49, 35, 43, 31, 29, 38, 16, 52, 11, 65, 18, 69, 34, 67, 60, 58, 88]],
];

export class Pad {
  constructor(canvas, drawn) {
    [this.canvas, this.drawn] = [canvas, drawn];
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(this.context, { lineCap: "round", lineJoin: "round", lineWidth: WIDTH, strokeStyle: "#fff" });
    this.pens = new Map();
    this.key = { x: canvas.width / 2, y: canvas.height / 4, down: false };
    this.clear();
    canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      this.pens.set(event.pointerId, this.place(event));
      this.line(this.place(event), this.place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.pens.has(event.pointerId)) return;
      // Where the pen was since the last event; browsers may keep it to themselves.
      const parts = event.getCoalescedEvents?.() ?? [];
      for (const part of parts.length ? parts : [event]) {
        this.line(this.pens.get(event.pointerId), this.place(part));
        this.pens.set(event.pointerId, this.place(part));
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.pens.delete(event.pointerId));
    }
    canvas.addEventListener("keydown", (event) => this.press(event));
    for (const change of ["focus", "blur"]) canvas.addEventListener(change, () => this.show());
  }

  // Where on the paper something has happened.
  place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: (clientX - box.left) * this.canvas.width / box.width,
      y: (clientY - box.top) * this.canvas.height / box.height,
    };
  }

  line(from, to) {
    const context = this.ink;
    context.beginPath();
    context.moveTo(from.x, from.y);
    // A line without length is not drawn; a dot is.
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
    this.show();
    this.drawn();
  }

  press(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const key = this.key;
    const from = { x: key.x, y: key.y };
    if (event.key === " ") {
      key.down = !key.down;
    } else if (moves[event.key]) {
      const within = (value, most) => Math.min(Math.max(value, 0), most);
      key.x = within(key.x + STEP * moves[event.key][0], this.canvas.width);
      key.y = within(key.y + STEP * moves[event.key][1], this.canvas.height);
    } else {
      return;
    }
    event.preventDefault();
    if (key.down) this.line(from, key);
    this.show();
  }

  clear() {
    const sheet = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    this.ink = sheet.getContext("2d", { willReadFrequently: true });
    Object.assign(this.ink, { lineCap: "round", lineJoin: "round", lineWidth: WIDTH, strokeStyle: "#fff" });
    this.ink.fillRect(0, 0, sheet.width, sheet.height);
    this.show();
  }

  // The sheet, and the pen that keys move where they have the focus.
  show() {
    this.context.drawImage(this.ink.canvas, 0, 0);
    if (document.activeElement !== this.canvas || this.pens.size) return;
    this.context.beginPath();
    this.context.arc(this.key.x, this.key.y, WIDTH / 2, 0, 7);
    this.context.save();
    Object.assign(this.context, { lineWidth: 3, strokeStyle: this.key.down ? "#56b4e9" : "#999" });
    this.context.stroke();
    this.context.restore();
  }

  example(number) {
    this.clear();
    const scale = this.canvas.width / 100;
    for (const points of EXAMPLES[number]) {
      this.ink.beginPath();
      for (let i = 0; i < points.length; i += 2) this.ink.lineTo(points[i] * scale, points[i + 1] * scale);
      this.ink.stroke();
    }
    this.show();
    this.drawn();
  }

  // Grey values.
  pixels() {
    const { width, height } = this.canvas;
    const { data } = this.ink.getImageData(0, 0, width, height);
    return { pixels: Uint8Array.from({ length: width * height }, (_, at) => data[4 * at]), width, height };
  }
}
