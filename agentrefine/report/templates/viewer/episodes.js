"use strict";
// The episodes: unpacked on demand, found by key. What a model or a simulator wrote reaches the document as text only.

/** Labels of `agreement`, given the two models' names. */
const AGREEMENT = {
  both: () => "both solved",
  "only-this": (own) => `only ${own} solved`,
  "only-other": (own, other) => `only ${other} solved`,
  neither: () => "neither solved",
};

const packed = new Map(
  [...document.querySelectorAll("script.packed")].map((element) => [element.dataset.model, element]),
);
const unpacked = new Map();

/** A model as agentrefine/report/viewer.py writes it (ViewedModel), with its episodes by key. */
async function unpack(name) {
  if (!unpacked.has(name)) {
    const bytes = Uint8Array.from(atob(packed.get(name).textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const model = await new Response(stream).json();
    for (const episode of model.episodes) {
      episode.key = `${episode.benchmark}:${episode.id}${episode.attempt ? `:attempt ${episode.attempt + 1}` : ""}`;
      episode.solved = episode.stop === "solved";
    }
    model.byKey = new Map(model.episodes.map((episode) => [episode.key, episode]));
    unpacked.set(name, model);
  }
  return unpacked.get(name);
}

/** Which of two models solved an episode; null where the other has not played it. */
function agreement(episode, other) {
  const counterpart = other?.byKey.get(episode.key);
  if (!counterpart) return null;
  if (episode.solved) return counterpart.solved ? "both" : "only-this";
  return counterpart.solved ? "only-other" : "neither";
}

/** The first turn at which two plays of an episode differ; null where one is the beginning of the other. */
function firstDifference(episode, counterpart) {
  const turns = Math.min(episode.turns.length, counterpart.turns.length);
  for (let turn = 0; turn < turns; turn++) {
    const [a, b] = [episode.turns[turn], counterpart.turns[turn]];
    if (a.action !== b.action || a.reply !== b.reply) return turn;
  }
  return null;
}

/** All text of an episode that is searched, in lower case. */
function searchable(episode) {
  episode.searchable ??= [
    episode.goal,
    episode.first_observation,
    episode.id,
    ...episode.turns.flatMap((turn) => [turn.thought, turn.action, turn.reply, turn.observation]),
  ]
    .join("\n")
    .toLowerCase();
  return episode.searchable;
}

const isError = (turn) => turn.flags.includes("format error") || turn.flags.includes("invalid action");

/** What happened in a turn, as the style sheet names it. */
function happened(turn) {
  if (turn.flags.includes("format error")) return "format";
  if (turn.flags.includes("invalid action")) return "invalid";
  return turn.gained > 0 ? "gain" : "plain";
}

const turnsOf = (number) => `${number} ${number === 1 ? "turn" : "turns"}`;
const percent = (share) => `${Math.round(100 * share)}%`;
const words = (name) => name.replaceAll("_", " ");

/** A new element with classes and children; strings become text. */
function make(tag, classes = "", ...children) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...children.filter((child) => child !== null));
  return element;
}
