// The tiles of the machines and the strip of their last shots.

import { el, sparkline, symbol } from "./draw.js";
import { clock, count, percent, rate, t } from "./words.js";

const SHOTS = 60;
const STRIP = 48;

const tally = () => ({ shots: 0, ok: 0, suspect: 0, defect: 0, unscorable: 0 });

/** Shots a minute from the middle gap between them: one stop or a clock set back changes nothing. */
const perMinute = (shots) => {
  const times = shots.map((shot) => Date.parse(shot.ended_at));
  const gaps = times.slice(1).map((time, i) => time - times[i]).filter((gap) => gap > 0).sort((a, b) => a - b);
  if (gaps.length < 2) return "–";
  const pace = 60_000 / gaps[gaps.length >> 1];
  return pace >= 10 ? pace.toFixed(0) : pace.toFixed(1);
};

export class Machines {
  constructor(tiles, strip, choose) {
    this.tiles = tiles;
    this.strip = strip;
    this.choose = choose;
    this.chosen = null;
    this.load({ machines: [], totals: tally() });
  }

  load(state) {
    this.totals = { ...state.totals };
    this.machines = new Map(state.machines.map((m) => [m.machine, { shots: m.shots.slice(-SHOTS), totals: { ...m.totals } }]));
    const last = state.machines.flatMap((m) => m.shots.slice(-STRIP));
    this.last = last.sort((a, b) => Date.parse(b.ended_at) - Date.parse(a.ended_at)).slice(0, STRIP);
    this.fresh = 0;
    this.changed = new Set(this.machines.keys());
    this.rebuild = true;
  }

  add(shot) {
    let machine = this.machines.get(shot.machine);
    if (!machine) {
      machine = { shots: [], totals: tally() };
      this.machines.set(shot.machine, machine);
      this.rebuild = true;
    }
    machine.shots.push(shot);
    if (machine.shots.length > SHOTS) machine.shots.shift();
    for (const totals of [machine.totals, this.totals]) {
      totals.shots += 1;
      totals[shot.verdict] += 1;
    }
    this.last.unshift(shot);
    this.last.length = Math.min(this.last.length, STRIP);
    this.fresh = Math.min(this.fresh + 1, STRIP);
    this.changed.add(shot.machine);
  }

  /** Redraws what changed since the last time. */
  draw() {
    if (this.rebuild) {
      const names = [...this.machines.keys()].sort((a, b) => a.localeCompare(b, "ko", { numeric: true }));
      this.nodes = new Map(names.map((name) => [name, el("li")]));
      this.tiles.replaceChildren(...this.nodes.values());
      this.changed = new Set(names);
      this.rebuild = false;
      this.fresh = 0;
      this.strip.replaceChildren(...this.last.map((shot) => chip(shot, false)));
    }
    for (const name of this.changed) this.tile(name);
    this.changed.clear();
    if (this.fresh > 0) {
      this.strip.prepend(...this.last.slice(0, this.fresh).map((shot) => chip(shot, true)));
      while (this.strip.children.length > STRIP) this.strip.lastElementChild.remove();
      this.fresh = 0;
    }
  }

  tile(name) {
    const node = this.nodes.get(name);
    const { shots, totals } = this.machines.get(name);
    const shot = shots.at(-1);
    const bad = shots.filter((s) => s.verdict === "defect").length;
    const pressed = this.chosen === name;
    // A tile is replaced as a whole; whoever stood on it with the keyboard stays there.
    const focused = node.contains(document.activeElement);
    node.replaceChildren(
      el("button", { type: "button", class: `tile ${shot.verdict}`, "aria-pressed": String(pressed), on: { click: () => this.pick(name) } },
        el("span", { class: "tile-head" }, symbol(shot.verdict), el("strong", {}, name), el("span", { class: "verdict" }, t(shot.verdict))),
        el("span", { class: "tile-where" },
          el("span", {}, `${t("die")} ${shot.die}`),
          el("span", {}, t("shotNo", shot.cycle)),
          el("time", { datetime: shot.ended_at }, clock(shot.ended_at)),
          shot.try_shot ? el("span", { class: "badge" }, t("tryShot")) : null),
        el("span", { class: "tile-now" },
          el("span", { class: "big" }, percent(shot.probability)),
          el("span", { class: "label", title: shot.reason }, t(shot.verdict === "unscorable" ? "tooFew" : "probability"))),
        sparkline(shots, SHOTS, t("trend", shots.length)),
        el("span", { class: "tile-foot" },
          fact(t("perMinute"), perMinute(shots)),
          fact(t("lastRate", shots.length), rate(bad, shots.length)),
          fact(t("shots"), count(totals.shots)))));
    if (focused) node.firstElementChild.focus();
  }

  pick(name) {
    const before = this.chosen;
    this.chosen = before === name ? null : name;
    for (const one of [before, name]) if (this.nodes.has(one)) this.changed.add(one);
    this.choose(this.chosen);
  }

  translate() {
    this.rebuild = true;
  }
}

const fact = (label, value) => el("span", { class: "fact" }, el("span", { class: "label" }, label), el("b", {}, value));

const chip = (shot, fresh) =>
  el("li", { class: `chip ${shot.verdict}${fresh ? " fresh" : ""}`, "data-shot": shot.shot },
    symbol(shot.verdict),
    el("span", { class: "chip-name" }, shot.machine),
    el("span", { class: "chip-word" }, shot.probability === null ? t(shot.verdict) : percent(shot.probability)),
    el("span", { class: "unseen" }, t(shot.verdict)));
