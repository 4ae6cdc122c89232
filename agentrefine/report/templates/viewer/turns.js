// One episode, turn by turn; two models' plays of it in two columns whose turns are side by side.

/** Show an episode, alone or beside another model's play of it (`undefined`: not played). */
function showEpisode(episode, model, other, query) {
  const place = document.getElementById("episode");
  const goal = make("h2", "", ...marked(episode.goal || "(no goal)", query));
  const first = passage("first observation", episode.first_observation, query);
  const heading = make("header", "task", goal, facts(episode), first);
  const columns = make("div", other ? "columns two" : "columns");
  const counterpart = other?.byKey.get(episode.key);
  const differs = counterpart ? firstDifference(episode, counterpart) : null;
  columns.append(column(model, episode, "a", differs, query));
  if (other) columns.append(counterpart ? column(other, counterpart, "b", differs, query) : absent(other));
  // Simulators without a seed may begin otherwise for another model.
  if (counterpart && counterpart.first_observation !== episode.first_observation)
    columns.lastChild.firstChild.append(passage("first observation", counterpart.first_observation, query));
  const height = 2 + Math.max(episode.turns.length, counterpart?.turns.length ?? 0);
  for (const section of columns.children) section.style.gridRow = `span ${height}`;
  place.replaceChildren(heading, columns);
}

function facts(episode) {
  const known = {
    benchmark: words(episode.benchmark),
    task: words(episode.task),
    variant: words(episode.variant),
    difficulty: episode.difficulty,
    seed: String(episode.seed),
    attempt: episode.attempt ? String(episode.attempt + 1) : "",
    id: episode.id,
  };
  const list = make("dl", "facts");
  for (const [name, value] of Object.entries(known))
    if (value) list.append(make("div", "", make("dt", "", name), make("dd", "", value)));
  return list;
}

/** A model's play: how it ended, its progress, its turns. */
function column(model, episode, side, differs, query) {
  const section = make("section", "column");
  section.setAttribute("aria-label", `Played by ${model.name}`);
  const ending = make("span", `outcome ${episode.solved ? "solved" : "unsolved"}`);
  ending.append(`${episode.solved ? "✓" : "✗"} ${episode.outcomes.join(", ")}`);
  const summary = `${turnsOf(episode.turns.length)}, progress ${percent(episode.progress)}`;
  const top = make("header", "", make("h3", "", model.name), ending, make("span", "quiet", summary));
  top.append(progressBars(episode, side));
  section.append(top);
  episode.turns.forEach((turn, number) => section.append(turnCard(turn, number, side, number === differs, query)));
  section.append(end(episode));
  return section;
}

function absent(other) {
  const heading = make("header", "", make("h3", "", other.name));
  return make("section", "column", heading, make("p", "notice", "has not played this episode."));
}

function end(episode) {
  const line = make("p", "end", `Ended: ${episode.stop}`);
  if (episode.error) line.append(make("span", "error", `\n${episode.error}`));
  return line;
}

/** A bar a turn, as high as the progress reached, in the colour of what happened; each leads to its turn. */
function progressBars(episode, side) {
  const bars = make("ol", "bars");
  bars.setAttribute("aria-label", "Progress over the turns");
  episode.turns.forEach((turn, number) => {
    const bar = make("span", happened(turn));
    bar.style.height = `${12 + 88 * turn.progress}%`;
    const button = make("button", "", bar);
    button.type = "button";
    button.title = [`turn ${number + 1}`, ...turn.flags, `progress ${percent(turn.progress)}`].join(", ");
    button.setAttribute("aria-label", button.title);
    button.addEventListener("click", () => goToTurn(document.getElementById(`${side}${number}`)));
    bars.append(make("li", "", button));
  });
  return bars;
}

function turnCard(turn, number, side, differs, query) {
  const card = make("article", `turn ${happened(turn)}${isError(turn) ? " failed" : ""}`);
  card.id = `${side}${number}`;
  card.tabIndex = -1;
  card.setAttribute("aria-label", `Turn ${number + 1}`);
  card.append(make("header", "", make("h4", "", String(number + 1)), ...chips(turn, differs)));
  if (turn.flags.includes("format error")) card.append(passage("reply", turn.reply || "(an empty reply)", query));
  else card.append(passage("thought", turn.thought, query), passage("action", turn.action, query));
  card.append(passage("observation", turn.observation, query));
  return card;
}

function chips(turn, differs) {
  const found = turn.flags.map((flag) => make("span", `chip ${flag.split(" ")[0]}`, flag));
  const add = (classes, text) => found.push(make("span", `chip ${classes}`, text));
  if (turn.gained > 0) add("gain", `progress ${percent(turn.progress)} (+${percent(turn.gained)})`);
  if (turn.turns_cut) add("cut", `${turnsOf(turn.turns_cut)} at the start not read`);
  if (differs) add("differs", "the plays differ from here");
  return found;
}

function passage(name, text, query) {
  return make("div", `passage ${name}`, make("span", "name", name), make("p", "", ...marked(text, query)));
}

/** Text with what is searched for marked: a list of texts and elements, never markup. */
function marked(text, query) {
  const lower = text.toLowerCase();
  if (!query || lower.length !== text.length) return [text];
  const parts = [];
  let from = 0;
  for (let at = lower.indexOf(query.toLowerCase()); at >= 0; at = lower.indexOf(query.toLowerCase(), from)) {
    parts.push(text.slice(from, at), make("mark", "", text.slice(at, at + query.length)));
    from = at + query.length;
  }
  return [...parts, text.slice(from)];
}

function goToTurn(card) {
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "center" });
}

/** Go to the next (or previous) turn with an error after the one in focus. */
function goToError(direction) {
  const cards = [...document.querySelectorAll("#episode section:first-child .turn")];
  const here = cards.indexOf(document.activeElement.closest(".turn"));
  const failed = cards.filter((card) => card.classList.contains("failed"));
  const isFurther = (card) => (direction > 0 ? cards.indexOf(card) > here : here < 0 || cards.indexOf(card) < here);
  const next = direction > 0 ? failed.find(isFurther) : failed.findLast(isFurther);
  if (next) goToTurn(next);
}
