// A dial for an angle in whole degrees, clockwise.
export class Dial {
  constructor(element, turned) {
    [this.element, this.turned, this.angle] = [element, turned, 0];
    let grip = null;
    const at = ({ clientX, clientY }) => {
      const box = element.getBoundingClientRect();
      return Math.atan2(clientX - box.left - box.width / 2, box.top + box.height / 2 - clientY) * 180 / Math.PI;
    };
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      grip = this.angle - at(event);
    });
    element.addEventListener("pointermove", (event) => grip !== null && this.turn(grip + at(event)));
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => { grip = null; });
    element.addEventListener("keydown", (event) => {
      const steps = {
        ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 15, PageDown: -15, Home: -this.angle,
        End: 359 - this.angle,
      };
      if (!(event.key in steps)) return;
      event.preventDefault();
      this.turn(this.angle + steps[event.key]);
    });
  }

  turn(angle) {
    const whole = Math.round(angle);
    this.angle = ((whole % 360) + 360) % 360;
    this.element.style.setProperty("--turn", `${this.angle}deg`);
    this.element.setAttribute("aria-valuenow", this.angle);
    this.element.setAttribute("aria-valuetext", `${this.angle} degrees`);
    this.turned(this.angle);
  }
}
