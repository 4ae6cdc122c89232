// The list of episodes: rows are made once and shown or hidden by the filters.

const rows = new Map();

/** Make a row for every episode: outcome, goal, where it is from, and a strip with one mark a turn. */
function makeList(model, open) {
  const list = document.getElementById("list");
  for (const episode of model.episodes) {
    const link = make(
      "a",
      "",
      make("span", "marks"),
      make("span", "goal", episode.goal || "(no goal: the environment did not start)"),
      make("span", "origin", origin(episode)),
      strip(episode),
    );
    link.href = `#${new URLSearchParams({ episode: episode.key })}`;
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      open(episode.key);
    });
    const row = make("li", "", link);
    rows.set(episode.key, row);
    list.append(row);
  }
}

function origin(episode) {
  const parts = [words(episode.benchmark), words(episode.task)];
  if (episode.variant) parts.push(words(episode.variant));
  if (episode.attempt) parts.push(`attempt ${episode.attempt + 1}`);
  return parts.filter(Boolean).join(" · ");
}

/** One mark a turn, as the colours of a gradient: a list of thousands of episodes stays light. */
function strip(episode) {
  const element = make("span", "strip");
  const turns = episode.turns.length;
  const stops = episode.turns.map(
    (turn, place) => `var(--${happened(turn)}) ${(100 * place) / turns}% ${(100 * (place + 1)) / turns}%`,
  );
  if (turns) element.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  element.style.width = `${Math.min(100, 4 * turns)}%`;
  return element;
}

/** ✓ or ✗ for this model and, if there is one, for the other. */
function showMarks(model, other) {
  for (const episode of model.episodes) {
    const link = rows.get(episode.key).firstChild;
    const plays = other ? [episode, other.byKey.get(episode.key)] : [episode];
    link.firstChild.replaceChildren(...plays.map(mark));
    const endings = plays.map((play) => (play ? play.stop : "not played")).join(" and ");
    link.setAttribute("aria-label", `${endings}: ${episode.goal} (${origin(episode)}, ${turnsOf(episode.turns.length)})`);
  }
}

const mark = (play) => make("span", play?.solved ? "solved" : "unsolved", play ? (play.solved ? "✓" : "✗") : "–");

/** Show the rows of `shown`, and which of them is open. */
function showList(shown, openKey) {
  const keys = new Set(shown.map((episode) => episode.key));
  for (const [key, row] of rows) {
    row.hidden = !keys.has(key);
    if (key === openKey) row.firstChild.setAttribute("aria-current", "true");
    else row.firstChild.removeAttribute("aria-current");
  }
}

function showCount(shown, all) {
  const solved = shown.filter((episode) => episode.solved).length;
  const some = shown.length === all.length ? `${all.length} episodes` : `${shown.length} of ${all.length}`;
  const share = shown.length ? ` (${percent(solved / shown.length)})` : "";
  document.getElementById("count").textContent = `${some}, ${solved} solved${share}`;
}
