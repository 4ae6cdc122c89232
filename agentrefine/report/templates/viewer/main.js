// What is shown is a small state; the address holds it, and everything on the page follows from it.

const OWN = document.documentElement.dataset.model;
const NO_FILTER = Object.fromEntries(FILTERS.map((filter) => [filter, null]));
const BLANK = { episode: null, beside: null, search: "", ...NO_FILTER };
let state = { ...BLANK };
let own, other, shown;
let addressTimer;
let working = Promise.resolve();

const byId = (id) => document.getElementById(id);

function readAddress() {
  const read = new URLSearchParams(location.hash.slice(1));
  const found = { ...BLANK };
  for (const key of Object.keys(BLANK)) if (read.has(key)) found[key] = read.get(key);
  return found;
}

function address() {
  const held = Object.entries(state).filter(([, value]) => value !== null && value !== "");
  return `#${new URLSearchParams(held)}`;
}

/** Make one change after the other: while a model is unpacked, what is pressed meanwhile waits. */
function inTurn(change) {
  working = working.then(change, change);
  return working;
}

const go = (changes, filtersChanged = false) => inTurn(() => apply(changes, filtersChanged));

/** Change the state; resting on another episode is a step that the browser's back button undoes. */
async function apply(changes, filtersChanged = false) {
  state = { ...state, ...changes };
  await show(filtersChanged);
  clearTimeout(addressTimer);
  // Browsers refuse more than some changes of the address a second, and a held key makes many.
  addressTimer = setTimeout(() => {
    const moved = readAddress().episode !== state.episode && !filtersChanged;
    history[moved ? "pushState" : "replaceState"](null, "", address());
  }, 150);
}

async function show(filtersChanged = false) {
  const beside = packed.has(state.beside) && state.beside !== OWN ? state.beside : null;
  if ((other?.name ?? null) !== beside) {
    other = beside === null ? undefined : await unpack(beside);
    showMarks(own, other);
  }
  state = { ...state, beside, agreement: other ? state.agreement : null };
  const found = filtered(own.episodes, other, state);
  shown = found.shown;
  // An address may point at an episode that its filters leave out; a change of the filters moves to one they show.
  if (state.episode === null || (filtersChanged && !shown.some((episode) => episode.key === state.episode)))
    state.episode = shown[0]?.key ?? null;
  showControls(found.counts);
  showList(shown, state.episode);
  showCount(shown, own.episodes);
  showMain();
}

function showControls(counts) {
  byId("compare").value = state.beside ?? "";
  if (byId("search").value !== state.search) byId("search").value = state.search;
  for (const filter of FILTERS) {
    byId(filter).parentElement.hidden = !hasChoice(filter, own.episodes, other) && state[filter] === null;
    const text = (label) =>
      filter === "agreement" ? (AGREEMENT[label]?.(OWN, other.name) ?? label) : words(label) || "not given";
    showFilter(filter, counts[filter], state[filter], text);
  }
  byId("reset").hidden = !state.search && FILTERS.every((filter) => state[filter] === null);
}

function showMain() {
  const notice = byId("notice");
  const episode = own.byKey.get(state.episode);
  notice.hidden = Boolean(episode);
  if (episode) {
    showEpisode(episode, own, other, state.search);
    document.title = `${episode.goal} – ${OWN}`;
  } else {
    notice.textContent =
      state.episode === null
        ? "No episode passes these filters."
        : `There is no episode ${state.episode} here; choose one from the list.`;
    byId("episode").replaceChildren();
  }
}

/** Open the episode so many places further in the list, and bring its row into view. */
async function step(places) {
  const here = shown.findIndex((episode) => episode.key === state.episode);
  const next = here < 0 ? shown[0] : shown[Math.max(0, Math.min(shown.length - 1, here + places))];
  if (!next || next.key === state.episode) return;
  const inList = byId("list").contains(document.activeElement);
  await apply({ episode: next.key });
  const link = rows.get(next.key).firstChild;
  if (inList) link.focus({ preventScroll: true });
  link.scrollIntoView({ block: "nearest" });
  byId("main").scrollTop = 0;
}

function onKey(event) {
  const field = event.target.closest("input, select");
  if (event.key === "Escape" && field) return field.blur();
  // A menu keeps its own keys but for j, k and /: after a filter is chosen they move through the episodes.
  if (field && !(field.tagName === "SELECT" && "jk/".includes(event.key))) return;
  if (byId("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const inList = byId("list").contains(event.target);
  const next = () => inTurn(() => step(1));
  const previous = () => inTurn(() => step(-1));
  const actions = {
    j: next,
    k: previous,
    ArrowRight: next,
    ArrowLeft: previous,
    ...(inList && { ArrowDown: next, ArrowUp: previous }),
    e: () => goToError(1),
    E: () => goToError(-1),
    "/": () => byId("search").focus(),
    "?": () => byId("help").showModal(),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    byId("notice").textContent =
      "This browser is too old to unpack the episodes; Chrome 117, Firefox 113, Safari 16.4 and later can.";
    return;
  }
  own = await unpack(OWN);
  byId("digest").textContent = own.digest.slice(0, 12);
  const others = [...packed.keys()].filter((name) => name !== OWN);
  byId("compare").append(new Option("no other model", ""), ...others.map((name) => new Option(name, name)));
  byId("compare-label").hidden = !others.length;
  makeList(own, (key) => go({ episode: key }).then(() => (byId("main").scrollTop = 0)));
  showMarks(own, undefined);
  state = readAddress();
  await show();
  rows.get(state.episode)?.firstChild.scrollIntoView({ block: "center" });

  byId("compare").addEventListener("change", (event) => go({ beside: event.target.value || null }));
  byId("search").addEventListener("input", (event) => go({ search: event.target.value }, true));
  for (const filter of FILTERS)
    byId(filter).addEventListener("change", (event) => {
      const { value } = event.target;
      go({ [filter]: value ? value.slice(1) : null }, true);
    });
  byId("reset").addEventListener("click", () => go({ search: "", ...NO_FILTER }, true));
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("search").blur();
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("popstate", () =>
    inTurn(() => {
      state = readAddress();
      return show();
    }),
  );
  byId("main").setAttribute("aria-busy", "false");
}

start();
