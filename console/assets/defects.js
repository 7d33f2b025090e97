// The list of defects: the newest opened, older ones on demand, each with chart and words.

import { el, gauge, symbol } from "./draw.js";
import { clock, of, percent, t } from "./words.js";

const PAGE = 20;
// A page left open for days must not grow without end.
const MOST = 400;

export class Defects {
  constructor({ list, filter, more, note }) {
    Object.assign(this, { list, filter, more, note });
    this.known = new Map();
    this.machine = null;
    this.next = null;
    this.open = null;
    this.failed = false;
    this.asked = 0;
    more.addEventListener("click", () => this.load(!this.failed));
  }

  /** Reads the newest defects of the chosen machine, or with `older` the page after the last one. */
  async load(older) {
    const asked = ++this.asked;
    const query = new URLSearchParams({ limit: PAGE });
    if (this.machine) query.set("machine", this.machine);
    if (older && this.next) query.set("before", this.next);
    try {
      const answer = await fetch(`/api/defects?${query}`, { signal: AbortSignal.timeout(10_000) });
      if (!answer.ok) throw new Error(`defects: ${answer.status}`);
      const page = await answer.json();
      if (asked !== this.asked) return;
      this.failed = false;
      this.next = page.next;
      page.defects.forEach((defect) => this.known.set(defect.shot, defect));
    } catch {
      if (asked !== this.asked) return;
      this.failed = true;
    }
    this.draw();
  }

  /** Takes defects that came live or with the snapshot; those of other machines are read when chosen. */
  add(defects) {
    for (const defect of defects) if (!this.machine || defect.machine === this.machine) this.known.set(defect.shot, defect);
    this.stale = true;
  }

  choose(machine) {
    this.machine = machine;
    this.open = null;
    this.next = null;
    // What another choice had read would stand here with gaps between.
    this.known.clear();
    this.load(false);
  }

  /** Goes back to showing the newest one opened. */
  follow() {
    this.open = null;
    this.draw();
  }

  /** Draws the list anew where it changed; cards that stay keep their chart and their focus. */
  draw() {
    this.stale = false;
    const shown = [...this.known.values()].sort((a, b) => Date.parse(b.ended_at) - Date.parse(a.ended_at) || (a.shot < b.shot ? 1 : -1));
    for (const defect of shown.splice(MOST)) this.known.delete(defect.shot);
    const cards = new Map([...this.list.children].map((card) => [card.dataset.shot, card]));
    const opened = this.open ?? shown[0]?.shot;
    let at = this.list.firstElementChild;
    for (const defect of shown) {
      const open = defect.shot === opened;
      let card = cards.get(defect.shot);
      cards.delete(defect.shot);
      if (card === undefined || card.dataset.open !== String(open)) {
        const fresh = this.card(defect, open);
        if (card === at) at = at?.nextElementSibling ?? null;
        const focused = card?.contains(document.activeElement);
        card?.remove();
        card = fresh;
        this.list.insertBefore(card, at);
        if (focused) card.querySelector("button").focus();
      } else if (card === at) {
        at = at.nextElementSibling;
      } else {
        this.list.insertBefore(card, at);
      }
    }
    for (const card of cards.values()) card.remove();
    this.note.hidden = shown.length > 0 && !this.failed;
    this.note.textContent = t(this.failed ? "loadFailed" : "noDefects");
    this.more.hidden = !this.failed && (this.next === null || shown.length >= MOST);
    this.more.textContent = t(this.failed ? "retry" : "older");
    this.filter.hidden = this.machine === null;
    this.filter.textContent = `${this.machine ?? ""} ✕`;
    this.filter.setAttribute("aria-label", `${this.machine ?? ""}: ${t("allMachines")}`);
  }

  card(defect, open) {
    const id = `defect-${defect.shot}`;
    const toggle = () => {
      this.open = open ? "" : defect.shot;
      this.draw();
    };
    return el("li", { class: `defect${open ? " open" : ""}`, "data-shot": defect.shot, "data-open": String(open) },
      el("h3", {},
        el("button", { type: "button", class: "defect-head", "aria-expanded": String(open), "aria-controls": id, on: { click: toggle } },
          symbol("defect"),
          el("span", { class: "defect-title" },
            el("strong", {}, defect.machine),
            el("span", {}, `${t("die")} ${defect.die}`),
            el("span", {}, t("shotNo", defect.cycle)),
            defect.try_shot ? el("span", { class: "badge" }, t("tryShot")) : null),
          el("span", { class: "defect-cause" }, of(defect.cause)),
          el("time", { datetime: defect.ended_at }, clock(defect.ended_at, true)),
          el("b", { class: "defect-p" }, percent(defect.probability)))),
      open ? this.detail(defect, id) : null);
  }

  detail(defect, id) {
    return el("div", { class: "detail", id },
      el("div", { class: "why" },
        gauge(defect.probability ?? 0, percent(defect.probability), t("probability")),
        el("p", { class: "summary" }, of(defect.summary))),
      el("dl", { class: "what" },
        el("div", {}, el("dt", {}, t("equipment")), el("dd", {}, of(defect.equipment))),
        el("div", { class: "advice" }, el("dt", {}, t("advice")), el("dd", {}, of(defect.advice)))),
      chart(defect));
  }

  /** Words in another language: every card anew. */
  translate() {
    this.list.replaceChildren();
    this.draw();
  }
}

const chart = (defect) => {
  const words = () => el("p", { class: "nochart" }, t("noChart"));
  if (!defect.chart) return words();
  const path = defect.chart.split("/").map(encodeURIComponent).join("/");
  const image = el("img", { src: `/charts/${path}`, alt: `${t("chartOf")}: ${of(defect.summary)}`, width: 900, height: 600, decoding: "async" });
  const figure = el("figure", {}, el("a", { href: image.src, target: "_blank", rel: "noopener" }, image));
  image.addEventListener("error", () => figure.replaceWith(words()));
  return figure;
};
